"""How requests leave and announcements come in, on this machine's loopback (RFC 6887 8.1, 14.1)."""

import contextlib
import socket

import pytest

from cpe_agent import net
from cpe_agent.pcp import wire

V6 = socket.inet_pton(socket.AF_INET6, "::1")
V4 = wire.V4_PREFIX + socket.inet_pton(socket.AF_INET, "127.0.0.1")
PATIENCE = 5  # s


@contextlib.contextmanager
def server(family, host):
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind((host, 0))
        sock.settimeout(PATIENCE)
        yield sock


@pytest.mark.parametrize(
    ("family", "host", "address"), [(socket.AF_INET6, "::1", V6), (socket.AF_INET, "127.0.0.1", V4)]
)
def test_requests_are_udp_datagrams_to_the_servers_port(family, host, address):
    with server(family, host) as peer, net.request_socket(address, address) as usual:
        assert usual.type == socket.SOCK_DGRAM and usual.getpeername()[1] == 5351
        with net.request_socket(address, address, peer.getsockname()[1]) as sock:
            sock.send(wire.announce_request(address))
            octets, sender = peer.recvfrom(2000)
            assert octets == wire.announce_request(address)
            assert sender[:2] == sock.getsockname()[:2] and sender[0] == host


def test_source_ports_are_random_and_never_shared():
    with contextlib.ExitStack() as stack:
        ports = [
            stack.enter_context(net.request_socket(V6, V6)).getsockname()[1] for _ in range(40)
        ]
    assert len(set(ports)) == 40
    steps = [after - before for before, after in zip(ports, ports[1:])]
    # An allocator that counts gives small equal steps; of forty random ones, few are that small.
    assert len([step for step in steps if abs(step) > 64]) > 30, ports


# IPv6 has no multicast on loopback: the scenarios of tests/e2e send [ff02::1] over a link.
ANNOUNCED = {
    "IPv6, to us": (socket.AF_INET6, "::1", V6, "::1"),
    "IPv4, to us": (socket.AF_INET, "127.0.0.1", V4, "127.0.0.1"),
    "IPv4, to all": (socket.AF_INET, "127.0.0.1", V4, "224.0.0.1"),
}


@pytest.mark.parametrize("how", ANNOUNCED)
def test_announcements_are_heard_at_port_5350(how):
    family, host, address, to = ANNOUNCED[how]
    lo = socket.if_nametoindex("lo")
    with net.announce_socket(address, lo) as sock, server(family, host) as peer:
        sock.settimeout(PATIENCE)
        if family == socket.AF_INET:
            peer.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        notice = wire.response(wire.OP_ANNOUNCE, wire.SUCCESS, 0, 7)
        peer.sendto(notice, (to, 5350))
        octets, sender = sock.recvfrom(2000)
        assert octets == notice and sender[1] == peer.getsockname()[1]


def test_several_clients_of_one_host_hear_announcements():
    lo = socket.if_nametoindex("lo")
    with net.announce_socket(V6, lo) as one, net.announce_socket(V6, lo) as other:
        assert one.getsockname()[1] == other.getsockname()[1] == 5350
