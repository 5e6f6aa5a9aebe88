"""Runs inside a user and network namespace: a lab with real sockets, and an lwB4 by hand.

Started by test_lwaftr_shell.py; prints one JSON object with what was seen.
"""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys

from lwaftr import ctl, packets

from cpe_agent.pcp import wire

LAB = "2001:db8:ffff::1"
CLIENT = "2001:db8:1::1"
SERVER4 = "198.51.100.1"


def integer(text):
    return int.from_bytes(socket.inet_aton(text), "big")


def sh(line):
    subprocess.run(line.split(), check=True)


def udp(src, sport, dst, dport, data):
    segment = struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data
    return packets.ipv4(integer(src), integer(dst), packets.UDP, segment, tos=0x28)


def receive(opened, timeout=3):
    ready, _, _ = select.select([opened], [], [], timeout)
    return opened.recv(65535) if ready else b""


def open_sockets():
    pcp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    pcp.bind((CLIENT, 0))
    softwire = socket.socket(socket.AF_INET6, socket.SOCK_RAW, packets.IPV4_IN_IPV6)
    softwire.bind((CLIENT, 0))
    icmp6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    icmp6.bind((CLIENT, 0))
    echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    echo.bind((SERVER4, 7000))
    return pcp, softwire, icmp6, echo


def open_multicast():
    """A client's socket for announcements, on the far end of the access link."""
    opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    opened.bind(("::", 5350))
    group = socket.inet_pton(socket.AF_INET6, "ff02::1")
    group += struct.pack("i", socket.if_nametoindex("far"))
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
    return opened


def grant(pcp):
    client = socket.inet_pton(socket.AF_INET6, CLIENT)
    data = wire.MapData(b"n" * 12, 0, 1, 0, wire.ANY_V4)
    request = wire.map_request(client, 3600, data, wire.port_set_option(0xFFFF, 1))
    pcp.sendto(request, (LAB, 5351))
    return wire.parse_response(receive(pcp))


def exercise(control):
    pcp, softwire, icmp6, echo = open_sockets()
    seen = {}
    granted = grant(pcp)
    first = granted.map.external_port
    address = socket.inet_ntoa(granted.map.external_ip[12:])
    seen["granted"] = [address, first, wire.parse_port_set(granted.options[0][1]).size]
    softwire.sendto(udp(address, first + 5, SERVER4, 7000, b"out"), (LAB, 0))
    ready, _, _ = select.select([echo], [], [], 3)
    data, peer = echo.recvfrom(2000) if ready else (b"", None)
    seen["out"] = [data.decode(), peer]
    # With its outer header larger than the MTU of 1500: it travels in IPv6 fragments.
    echo.sendto(b"x" * 1472, peer)
    back = packets.parse(receive(softwire))
    seen["back"] = [len(back.octets), back.octets[-1:].decode()]
    softwire.sendto(udp(address, first - 1, SERVER4, 7000, b"stolen"), (LAB, 0))
    message = receive(icmp6)
    seen["icmp6"] = list(message[:2])
    seen["stolen_arrived"] = bool(receive(echo, 0.3))
    multicast = open_multicast()
    ctl.call(control, "forget", {"announce": True})
    notice = wire.parse_response(receive(pcp))
    seen["notice"] = [notice.opcode, notice.result, notice.epoch]
    ready, _, _ = select.select([multicast], [], [], 3)
    data, peer = multicast.recvfrom(2000) if ready else (b"", ("", 0))
    seen["multicast"] = [data.hex(), peer[0], peer[1]]
    seen["counters"] = ctl.call(control, "counters")
    seen["messages"] = len(ctl.call(control, "messages")["messages"])
    return seen


def main():
    directory = sys.argv[1]
    control = os.path.join(directory, "control")
    config = os.path.join(directory, "lab.json")
    with open(config, "w") as file:
        server = {"address": LAB, "control": control, "access_interface": "near"}
        pool = {"addresses": ["192.0.2.3"]}
        json.dump({"server": server, "pool": pool, "pcp": {"announce_at_start": False}}, file)
    sh("ip link set lo mtu 1500 up")
    sh("ip link add near type veth peer name far")
    for end in ("near", "far"):
        sh("ip link set %s up" % end)
    for address in (LAB, CLIENT):
        sh("ip -6 address add %s/128 dev lo nodad" % address)
    sh("ip address add %s/32 dev lo" % SERVER4)
    lab = subprocess.Popen(
        [sys.executable, "-m", "lwaftr", "--config", config], stdout=subprocess.PIPE
    )
    try:
        ready = lab.stdout.readline().decode().strip()
        sh("ip route add 192.0.2.0/24 dev lw0")
        seen = {"ready": ready, **exercise(control)}
    finally:
        lab.send_signal(signal.SIGTERM)
    seen["exit"] = lab.wait(10)
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
