"""A UDP port in a namespace, by pipe: each datagram is a line of JSON on stdout, and each line on
stdin {"to": [address, port], "data": hex} is sent. Argument: the address; the port is PCP's."""

import json
import select
import socket
import sys


def main():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.bind((sys.argv[1], 5351))
    print(json.dumps({"ready": True}), flush=True)
    while True:
        ready = select.select([sock, sys.stdin], [], [])[0]
        if sock in ready:
            data, peer = sock.recvfrom(2000)
            print(json.dumps({"from": peer[:2], "data": data.hex()}), flush=True)
        if sys.stdin in ready:
            order = json.loads(sys.stdin.readline())
            sock.sendto(bytes.fromhex(order["data"]), tuple(order["to"]))


if __name__ == "__main__":
    main()
