"""A neighbour who shares the router's IPv4 address; runs inside the operator's guest.

  ask CLIENT...                    each asks for a port set, suggesting nothing
  intrude CLIENT ADDRESS PORT      sends a UDP packet from a port that may not be its own

CLIENT is an IPv6 address, which is added to the loopback device. Prints one line of JSON for each.
"""

import json
import os
import select
import socket
import struct
import subprocess
import sys

from cpe_agent.pcp import wire

SERVER = "2001:db8:ffff::1"
TARGET = "198.51.100.1"
PATIENCE = 3  # seconds
DESTINATION_UNREACHABLE, SOURCE_FAILED_POLICY = 1, 5
UDP, IPV4_IN_IPV6 = 17, 4


def take_address(client):
    subprocess.run(["ip", "addr", "replace", f"{client}/128", "dev", "lo", "nodad"], check=True)


def wait(sock):
    """The next datagram, or None when nothing comes."""
    if not select.select([sock], [], [], PATIENCE)[0]:
        return None
    return sock.recv(65536)


def ask(client):
    take_address(client)
    own = socket.inet_pton(socket.AF_INET6, client)
    wish = wire.MapData(os.urandom(12), wire.PROTO_ALL, 0, 0, wire.ANY_V4)
    option = wire.port_set_option(wire.MAX_PORTS, 0)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind((client, 0))
        sock.connect((SERVER, wire.SERVER_PORT))
        sock.send(wire.map_request(own, 3600, wish, option))
        data = wait(sock)
    if data is None:
        return {"ok": False, "client": client, "error": "no answer"}
    answer = wire.parse_response(data)
    if answer.result != wire.SUCCESS:
        return {"ok": False, "client": client, "error": wire.result_name(answer.result)}
    port_set = wire.parse_port_set(wire.find_option(answer.options, wire.OPT_PORT_SET))
    address = socket.inet_ntop(socket.AF_INET, answer.map.external_ip[12:])
    return {
        "ok": True,
        "client": client,
        "address": address,
        "first_port": answer.map.external_port,
        "size": port_set.size,
    }


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))


def udp_packet(address, port):
    """An IPv4 packet with an empty datagram (a UDP checksum of 0 means none)."""
    head = struct.pack(
        "!BBHHHBBH4s4s",
        0x45,
        0,
        28,
        0,
        0,
        64,
        UDP,
        0,
        socket.inet_aton(address),
        socket.inet_aton(TARGET),
    )
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return head + struct.pack("!HHHH", port, 9, 8, 0)


def intrude(client, address, port):
    """Send the packet; say which ICMPv6 error came back, if any."""
    take_address(client)
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as errors,
        socket.socket(socket.AF_INET6, socket.SOCK_RAW, IPV4_IN_IPV6) as softwire,
    ):
        errors.bind((client, 0))
        softwire.bind((client, 0))
        softwire.sendto(udp_packet(address, int(port)), (SERVER, 0))
        answer = wait(errors) or b"\0\0"
    return {
        "ok": True,
        "client": client,
        "icmp6_type": answer[0],
        "icmp6_code": answer[1],
        "refused": answer[:2] == bytes((DESTINATION_UNREACHABLE, SOURCE_FAILED_POLICY)),
    }


def main():
    command, words = sys.argv[1], sys.argv[2:]
    said = [ask(client) for client in words] if command == "ask" else [intrude(*words)]
    for line in said:
        print(json.dumps(line))
    return 0 if all(line["ok"] for line in said) else 1


if __name__ == "__main__":
    sys.exit(main())
