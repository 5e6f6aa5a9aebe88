"""Hands inside a namespace: one JSON call a line on stdin, its answer a line on stdout.

Started by topology.Hand. A call is [name, arguments]; the functions below that are in CALLS can be
called. What goes wrong comes back as text, and the test fails with it.
"""

import contextlib
import json
import os
import select
import socket
import struct
import sys
import threading

from cpe_agent import forwards, netlink, plan, portset
from cpe_agent.backends import linux
from tests.netns import crowds, packets
from tests.netns.packets import ECHO_REPLY, ECHO_REQUEST, ICMP, SCTP, TCP, UDP

ETH_P_IP = 0x0800

_kept = {}  # sockets and sniffers that live for the namespace


# Peers


def serve(port, *addresses):
    """TCP and UDP servers that tell each client how they see it, from where it has asked."""
    listener = socket.create_server(("0.0.0.0", port), backlog=128)
    threading.Thread(target=_serve_tcp, args=(listener,), daemon=True).start()
    for address in addresses or ("0.0.0.0",):
        echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        echo.bind((address, port))
        threading.Thread(target=_serve_udp, args=(echo,), daemon=True).start()


def _serve_tcp(listener):
    while True:
        connection, peer = listener.accept()
        with contextlib.suppress(OSError):
            connection.sendall(b"%s %d" % (peer[0].encode(), peer[1]))
        connection.close()


def _serve_udp(echo):
    while True:
        data, peer = echo.recvfrom(65535)
        seen = b"%s %d %d" % (peer[0].encode(), peer[1], len(data))
        with contextlib.suppress(OSError):
            echo.sendto(seen.ljust(len(data)), peer)


# Clients


def talk(address, port, patience, own_port=0):
    """How a TCP server sees us, 'address port'; or the name of the error."""
    try:
        with socket.socket() as connection:
            connection.settimeout(patience)
            if own_port:  # also again at once
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                connection.bind(("", own_port))
            connection.connect((address, port))
            return connection.recv(99).decode()
    except OSError as error:
        return type(error).__name__


def connect_many(address, port, count, patience):
    """Ports as that TCP server sees them, of connections that are open at the same time."""
    waiting = []
    for _ in range(count):
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex((address, port))
        waiting.append(connection)
    seen = []
    while ready := select.select(waiting, [], [], patience)[0]:
        for connection in ready:
            waiting.remove(connection)
            _kept[connection] = connection  # still open, so that its port stays taken
            seen.append(int(connection.recv(99).split()[1]))
    for connection in waiting:
        connection.close()
    return seen


def ask_udp(destinations, count, size, patience):
    """For each of count sockets, 'address port octets' as seen at each of the destinations."""
    answers = []
    for _ in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(patience)
            client.bind(("0.0.0.0", 0))
            answers.append([_ask_once(client, destination, size) for destination in destinations])
    return answers


def _ask_once(client, destination, size):
    try:
        client.sendto(b"?" * size, tuple(destination))
        return client.recv(65535).decode().rstrip()
    except OSError:  # silence, or a guard refused it: it tells the router's own programs at once
        return None


def open_udp(name, port):
    """Keep a UDP socket under a name."""
    _kept[name] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    _kept[name].bind(("0.0.0.0", port))
    return _kept[name].getsockname()[1]


def send_udp(name, address, port):
    """Send an octet from a kept socket."""
    _kept[name].sendto(b"x", (address, port))


def receive_udp(name, patience):
    """[address, port] of who sent to a kept socket, or None."""
    _kept[name].settimeout(patience)
    try:
        return _kept[name].recvfrom(2000)[1]
    except OSError:
        return None


def close(name):
    """Close a kept socket."""
    _kept.pop(name).close()


def ping(address, identifier, patience, device=""):
    """Source of the answer to an echo request, or None."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, ICMP) as raw:
        if device:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        raw.settimeout(patience)
        raw.sendto(packets.echo(ECHO_REQUEST, identifier), (address, 0))
        try:
            while True:
                packet, peer = raw.recvfrom(2000)
                if packet[20] == ECHO_REPLY and packet[24:26] == struct.pack(">H", identifier):
                    return peer[0]
        except OSError:
            return None


def send_protocol(address, protocol, text=""):
    """Send an IPv4 packet of a protocol, with zeros or so many octets in hexadecimal digits; False
    if the kernel refused."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as raw:
        try:
            raw.sendto(bytes.fromhex(text) or bytes(16), (address, 0))
        except PermissionError:
            return False
    return True


# What is on the wire


def sniff(device):
    """Keep what arrives on a device from now on."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
    tap.bind((device, ETH_P_IP))
    tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    _kept["sniffer"] = tap


def sniffed():
    """What has arrived since the last call, as dicts."""
    tap, found = _kept["sniffer"], []
    while select.select([tap], [], [], 0)[0]:
        data, where = tap.recvfrom(65535)
        if where[2] != socket.PACKET_OUTGOING:
            found.append(_describe(data))
    return found


def _describe(data):
    head = (data[0] & 15) * 4
    packet = {
        "protocol": data[9],
        "source": socket.inet_ntoa(data[12:16]),
        "destination": socket.inet_ntoa(data[16:20]),
        "size": len(data),
    }
    if struct.unpack_from(">H", data, 6)[0] & 0x1FFF:
        return dict(packet, fragment=True)
    body = data[head:]
    if packet["protocol"] in (TCP, UDP, SCTP):
        packet["port"], packet["to"] = struct.unpack_from(">HH", body)
    if packet["protocol"] == ICMP:
        packet["type"] = body[0]
        if body[0] in (ECHO_REQUEST, ECHO_REPLY):
            packet["port"] = struct.unpack_from(">H", body, 4)[0]
        else:
            packet["about"] = _describe(body[8:])
    if packet["protocol"] == TCP and len(body) > 13 and body[13] & 2:
        packet["mss"] = struct.unpack_from(">H", body, 22)[0] if body[20] == 2 else None
    return packet


# The agent's own code


def apply(fields):
    """Make a plan so by the linux backend; None: take it down. True if something changed.

    The softwire is a veth here, since not every kernel has IPv4-in-IPv6 tunnels: the backend is
    told that it is the tunnel that the plan wants. All the rest is its own work.
    """
    backend = _backend()
    wanted = None
    if fields is not None:
        for name in ("port_sets", "open_sets"):
            fields[name] = tuple(portset.PortSet(*one) for one in fields[name])
        fields["more"] = tuple(fields["more"])
        fields["forwards"] = tuple(forwards.Placed(*one) for one in fields["forwards"])
        wanted = plan.Plan(**fields)
        tunnel = (wanted.local, wanted.remote, wanted.mtu, True, wanted.underlay)
        linux._tunnel = lambda link: tunnel
    return backend.apply(wanted)


def counters():
    """{guard: packets}."""
    return _backend().counters()


def _backend():
    if "backend" not in _kept:
        _kept["backend"] = linux.Linux("lw4o6", os.environ["RUN_DIR"])
    return _kept["backend"]


def delete_flows(address, first, last):
    """Delete flows of an address outside a range of ports; how many went."""
    return netlink.delete_flows(socket.inet_aton(address), lambda port: first <= port <= last)


CALLS = [serve, talk, connect_many, ask_udp, open_udp, send_udp, receive_udp, close, ping]
CALLS += [send_protocol, sniff, sniffed, apply, counters, delete_flows, *crowds.CALLS]
CALLS += packets.CALLS


def main():
    calls = {function.__name__: function for function in CALLS}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            answer = {"answer": calls[name](*arguments)}
        except Exception as error:
            answer = {"error": "%s: %s" % (type(error).__name__, error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
