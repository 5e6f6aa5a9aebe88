"""A UDP port in a namespace, by pipe: each datagram is a line of JSON on stdout, and each line on
stdin {"to": [address, port], "data": hex} is sent. Argument: the address; the port is PCP's."""

import json
import os
import select
import socket
import sys


def main():
    family, kind, _, _, address = socket.getaddrinfo(sys.argv[1], 5351, type=socket.SOCK_DGRAM)[0]
    sock = socket.socket(family, kind)
    sock.bind(address)
    waiting = b""
    print(json.dumps({"ready": True}), flush=True)
    while True:
        ready = select.select([sock, sys.stdin], [], [])[0]
        if sock in ready:
            data, peer = sock.recvfrom(2000)
            print(json.dumps({"from": peer[:2], "data": data.hex()}), flush=True)
        if sys.stdin in ready:
            # Not readline(): it may hold a second line back, of which select() knows nothing.
            waiting += os.read(sys.stdin.fileno(), 65536)
            *lines, waiting = waiting.split(b"\n")
            for order in map(json.loads, lines):
                sock.sendto(bytes.fromhex(order["data"]), tuple(order["to"]))


if __name__ == "__main__":
    main()
