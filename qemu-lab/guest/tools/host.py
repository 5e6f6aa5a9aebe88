"""What a host of the lab does: a client for the lab's servers, or a server to be reached.

Every subcommand prints JSON, one object a line, and exits with 0 only if all went well.
Times are in milliseconds, waits in seconds.
"""

import argparse
import hashlib
import http.client
import json
import os
import select
import socket
import struct
import sys
import time
from urllib.parse import urlsplit


def emit(**fields):
    print(json.dumps(fields), flush=True)


def since(began):
    return round((time.monotonic() - began) * 1000, 1)


def connect(args):
    """A TCP connection to an echo server, and what that server saw as our address."""
    source = ("", args.source_port) if args.source_port else None
    conn = socket.create_connection((args.host, args.port), args.timeout, source)
    stream = conn.makefile("rb")
    return conn, stream, json.loads(stream.readline())["peer"]


def run_tcp(args):
    began = time.monotonic()
    conn, stream, seen = connect(args)
    payload = os.urandom(args.bytes)
    good = True
    for _ in range(args.count):
        conn.sendall(payload)
        good = stream.read(len(payload)) == payload and good
    emit(ok=good, local=conn.getsockname(), seen=seen, ms=since(began))
    return good


def run_counter(args):
    """Hold one TCP connection and send a number each interval: is it alive?"""
    conn, stream, seen = connect(args)
    emit(ok=True, seen=seen, n=0)
    end = time.monotonic() + args.seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        line = b"%d\n" % number
        began = time.monotonic()
        conn.sendall(line)
        good = stream.readline() == line
        emit(ok=good, n=number, ms=since(began), at=round(time.time(), 3))
        if not good:
            return False
        time.sleep(args.interval)
    return True


def run_udp(args):
    """Send from `sockets` ports, `count` datagrams each; one line for each socket."""
    socks = []
    for index in range(args.sockets):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", args.source_port + index if args.source_port else 0))
        socks.append(sock)
    seen = [None] * len(socks)
    began = time.monotonic()
    for _ in range(args.count):
        for index, sock in enumerate(socks):
            sock.sendto(b"%d" % index, (args.host, args.port))
        collect(socks, seen, args.timeout)
    for sock, peer in zip(socks, seen):
        emit(ok=peer is not None, local=sock.getsockname()[1], seen=peer, ms=since(began))
    return all(seen)


def collect(socks, seen, timeout):
    """Read answers until every socket had one or nothing came for `timeout` seconds."""
    poll = select.poll()
    index_of = {sock.fileno(): index for index, sock in enumerate(socks)}
    for sock in socks:
        poll.register(sock, select.POLLIN)
    waiting = set(range(len(socks)))
    while waiting:
        ready = poll.poll(timeout * 1000)
        if not ready:
            return
        for fileno, _ in ready:
            index = index_of[fileno]
            try:
                seen[index] = json.loads(socks[index].recv(65536))["peer"]
            except OSError as err:
                emit(ok=False, error=str(err))
            waiting.discard(index)


def run_http(args):
    url = urlsplit(args.url)
    began = time.monotonic()
    conn = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=args.timeout)
    conn.request("GET", url.path + (f"?{url.query}" if url.query else ""))
    answer = conn.getresponse()
    digest, size, text = hashlib.sha256(), 0, b""
    while part := answer.read(65536):
        digest.update(part)
        size += len(part)
        text = text or part[:200]
    emit(
        ok=answer.status == 200,
        status=answer.status,
        bytes=size,
        sha256=digest.hexdigest(),
        text=text.decode("latin-1"),
        ms=since(began),
    )
    return answer.status == 200


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))


def run_ping(args):
    """Echo requests with a chosen id, which a NAT has to map like a port."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    ident = args.id or os.getpid() & 0xFFFF
    good = 0
    for number in range(1, args.count + 1):
        head = struct.pack("!BBHHH", 8, 0, 0, ident, number)
        body = b"cpe-agent lab  16"[:16]
        packet = head[:2] + struct.pack("!H", checksum(head + body)) + head[4:] + body
        began = time.monotonic()
        sock.sendto(packet, (args.host, 0))
        answered = await_echo(sock, ident, number, args.timeout)
        good += answered
        emit(ok=answered, id=ident, n=number, ms=since(began))
    return good == args.count


def await_echo(sock, ident, number, timeout):
    end = time.monotonic() + timeout
    while (left := end - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
        packet = sock.recv(65536)
        icmp = packet[(packet[0] & 15) * 4 :]
        if icmp[0] == 0 and struct.unpack("!HH", icmp[4:8]) == (ident, number):
            return True
    return False


def run_serve(args):
    """Accept TCP and UDP on one port, say who called, echo; for connections from outside."""
    tcp = socket.create_server(("", args.port))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("", args.port))
    emit(ok=True, port=args.port)
    end = time.monotonic() + args.seconds
    while (left := end - time.monotonic()) > 0:
        for sock in select.select([tcp, udp], [], [], left)[0]:
            if sock is udp:
                data, peer = udp.recvfrom(65536)
                answer = {"peer": list(peer), "data": data.decode("latin-1")}
                udp.sendto(json.dumps(answer).encode(), peer)
            else:
                conn, peer = tcp.accept()
                conn.settimeout(args.timeout)
                with conn:
                    conn.sendall(json.dumps({"peer": list(peer)}).encode() + b"\n")
                    conn.sendall(conn.recv(65536))
            emit(ok=True, proto="udp" if sock is udp else "tcp", peer=list(peer))
    return True


def parser():
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("--timeout", type=float, default=5.0)
    sub = top.add_subparsers(dest="command", required=True)
    for name in ("tcp", "udp", "counter"):
        one = sub.add_parser(name)
        one.add_argument("host")
        one.add_argument("--port", type=int, default=7)
        one.add_argument("--source-port", type=int, default=0)
        one.add_argument("--count", type=int, default=1)
        one.add_argument("--bytes", type=int, default=64)
        one.add_argument("--sockets", type=int, default=1)
        one.add_argument("--seconds", type=float, default=10.0)
        one.add_argument("--interval", type=float, default=1.0)
    one = sub.add_parser("http")
    one.add_argument("url")
    one = sub.add_parser("ping")
    one.add_argument("host")
    one.add_argument("--count", type=int, default=1)
    one.add_argument("--id", type=int, default=0)
    one = sub.add_parser("serve")
    one.add_argument("port", type=int)
    one.add_argument("--seconds", type=float, default=60.0)
    return top


def main():
    args = parser().parse_args()
    actions = {
        "tcp": run_tcp,
        "udp": run_udp,
        "counter": run_counter,
        "http": run_http,
        "ping": run_ping,
        "serve": run_serve,
    }
    try:
        return 0 if actions[args.command](args) else 1
    except (OSError, ValueError) as err:
        emit(ok=False, error=f"{type(err).__name__}: {err}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
