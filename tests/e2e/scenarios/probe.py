"""Runs in the lab's guest isp: a LAN host that measures, and neighbours who ask or forge.

Prints JSON, one object a line. Times are in seconds unless a name says ms.
"""

import argparse
import json
import os
import select
import signal
import socket
import struct
import sys
import time

INTERNET = "198.51.100.1"
LWAFTR = "2001:db8:ffff::1"
NO_DISCOVERY = 0  # IP_PMTUDISC_DONT: the DF bit stays off
IP_MTU_DISCOVER = 10


def emit(**fields):
    print(json.dumps(fields), flush=True)


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))


# ---------------------------------------------------------------- one exchange of each kind


def talk_tcp(timeout):
    with socket.create_connection((INTERNET, 7), timeout) as conn:
        stream = conn.makefile("rb")
        peer = json.loads(stream.readline())["peer"]
        conn.sendall(b"hello\n")
        return peer if stream.readline() == b"hello\n" else None


def talk_udp(timeout):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout / 3)
        for _ in range(3):
            sock.sendto(b"hello", (INTERNET, 7))
            try:
                return json.loads(sock.recv(4096))["peer"]
            except socket.timeout:
                continue
    return None


def ping(timeout, octets=56):
    """One echo request without DF; True if its answer came back whole."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, NO_DISCOVERY)
        ident = os.getpid() & 0xFFFF
        body = bytes(range(256)) * 8
        body = body[:octets]
        head = struct.pack("!BBHHH", 8, 0, 0, ident, 1)
        head = head[:2] + struct.pack("!H", checksum(head + body)) + head[4:]
        sock.sendto(head + body, (INTERNET, 0))
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
            answer = sock.recv(65536)[20:]
            if answer[0] == 0 and struct.unpack("!H", answer[4:6])[0] == ident:
                return answer[8:] == body
    return False


def attempt(talk, timeout):
    try:
        return talk(timeout)
    except OSError:
        return None


def run_talk(args):
    emit(
        tcp=attempt(talk_tcp, args.timeout),
        udp=attempt(talk_udp, args.timeout),
        icmp=bool(attempt(ping, args.timeout)),
    )


def run_big(args):
    emit(ok=ping(args.timeout, args.octets))


def run_marked(args):
    """One UDP exchange with a type of service."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, args.tos)
        sock.settimeout(args.timeout)
        sock.sendto(b"marked", (INTERNET, 7))
        emit(seen=json.loads(sock.recv(4096))["peer"])


# ---------------------------------------------------------------- a stream, and its gaps


class Stream:
    """A datagram each interval from one socket; which came back when, and from which port."""

    def __init__(self, args):
        self.args = args
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.connect((INTERNET, 7))
        self.sock.setblocking(False)
        self.going = True
        self.sent = 0
        self.answers = []  # (when sent, number, port)
        signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_):
        self.going = False

    def run(self):
        end = time.monotonic() + self.args.seconds
        while self.going and time.monotonic() < end:
            due = time.monotonic() + self.args.interval
            self.send()
            while (left := due - time.monotonic()) > 0:
                if select.select([self.sock], [], [], left)[0]:
                    self.take()
        self.report()

    def send(self):
        self.sent += 1
        try:
            self.sock.send(b"%d %f" % (self.sent, time.monotonic()))
        except OSError:
            pass  # an ICMP error for an earlier one

    def take(self):
        try:
            answer = json.loads(self.sock.recv(4096))
        except OSError:
            return
        number, sent = answer["data"].split()
        if not self.answers:
            emit(ready=True)
        self.answers.append((float(sent), int(number), answer["peer"][1]))

    def report(self):
        times = sorted(sent for sent, _, _ in self.answers)
        gap = max((later - sooner for sooner, later in zip(times, times[1:])), default=None)
        ports = list(dict.fromkeys(port for _, _, port in sorted(self.answers)))
        emit(sent=self.sent, answered=len(times), gap=gap and round(gap, 2), ports=ports)


def run_stream(args):
    Stream(args).run()


# ---------------------------------------------------------------- neighbours


def run_punch(args):
    """UDP hole punching: learn our external address, tell the friend by a file, and send to theirs
    until theirs has come and ours has surely been sent again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.3)
        mine = external(sock, args.timeout)
        with open(args.mine + ".part", "w") as out:
            json.dump(mine, out)
        os.rename(args.mine + ".part", args.mine)
        friend = tuple(await_file(args.friend, args.timeout))
        heard = 0
        end = time.monotonic() + args.timeout
        while heard < 3 and time.monotonic() < end:
            sock.sendto(b"punch", friend)
            try:
                heard += sock.recvfrom(4096) == (b"punch", friend)
            except socket.timeout:
                continue
        emit(mine=mine, friend=friend, heard=heard)


def external(sock, timeout):
    """[address, port] that a server of the Internet sees of a UDP socket."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        sock.sendto(b"who am I", (INTERNET, 7))
        try:
            return json.loads(sock.recv(4096))["peer"]
        except socket.timeout:
            continue
    raise OSError("nobody says who we are")


def await_file(path, timeout):
    end = time.monotonic() + timeout
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.05)
    with open(path) as file:
        return json.load(file)


def run_strays(args):
    """UDP datagrams with a mark in them, which nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(args.count):
            sock.sendto(args.mark.encode(), (args.host, args.port))
    emit(ok=True)


def run_neighbour(args):
    """Another home asks for a port set, from an address that this guest has."""
    from cpe_agent.pcp import wire

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind((args.source, 0))
        sock.settimeout(args.timeout)
        source = socket.inet_pton(socket.AF_INET6, args.source)
        data = wire.MapData(os.urandom(12), 0, 1, 0, wire.ANY_V4)
        option = wire.port_set_option(65535, 1, False)
        sock.sendto(wire.map_request(source, 3600, data, option), (LWAFTR, 5351))
        response = wire.parse_response(sock.recv(2048))
        emit(result=response.result, first_port=response.map.external_port)


def run_unreachable(args):
    """ICMPv6 type 1 code 5 about a packet of the router's softwire, from any address of ours."""
    router = socket.inet_pton(socket.AF_INET6, args.router)
    lwaftr = socket.inet_pton(socket.AF_INET6, LWAFTR)
    quoted = struct.pack("!IHBB", 6 << 28, 20, 4, 64) + router + lwaftr + bytes(20)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.bind((args.source, 0))
        sock.sendto(struct.pack("!BBHI", 1, 5, 0, 0) + quoted, (args.router, 0))
    emit(ok=True)


def main():
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("command")
    top.add_argument("--timeout", type=float, default=6.0)
    top.add_argument("--seconds", type=float, default=120.0)
    top.add_argument("--interval", type=float, default=0.1)
    top.add_argument("--octets", type=int, default=56)
    top.add_argument("--tos", type=int, default=0)
    top.add_argument("--source", default="2001:db8:ffff::99")
    top.add_argument("--router", default="2001:db8:c0de::2")
    top.add_argument("--host", default=INTERNET)
    top.add_argument("--port", type=int, default=7)
    top.add_argument("--count", type=int, default=1)
    top.add_argument("--mark", default="")
    top.add_argument("--mine", default="")
    top.add_argument("--friend", default="")
    args = top.parse_args()
    globals()["run_" + args.command](args)


if __name__ == "__main__":
    sys.exit(main())
