"""A name server that misbehaves as told: ADDRESS BEHAVIOUR. Its true answer to any AAAA question is
2001:db8::7777, to others that there is none; what comes before it is forged. At the end of its
input it prints a line of JSON for each query."""

import json
import select
import socket
import struct
import sys

TRUE = bytes.fromhex("20010db8000000000000000000007777")
FORGED = bytes.fromhex("20010db8000000000000000000006666")
AAAA = b"\0\x1c\0\x01"


def answer(query, address, flags=0x8180):
    count = 1 if query.endswith(AAAA) else 0
    head = query[:2] + struct.pack(">HHHHH", flags, 1, count, 0, 0) + query[12:]
    return head + (b"\xc0\x0c" + AAAA + struct.pack(">IH", 300, 16) + address) * count


def respond(sock, peer, query, behaviour):
    other = bytes([query[0] ^ 1]) + query[1:]
    if behaviour == "silent":
        return
    if behaviour == "wrong-identifier":
        sock.sendto(answer(other, FORGED), peer)
    if behaviour == "wrong-question":
        sock.sendto(answer(query[:13] + b"x" + query[14:], FORGED), peer)
    if behaviour == "wrong-port":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(answer(query, FORGED), peer)
    if behaviour == "noise":
        for length in range(60):
            sock.sendto(bytes(range(length)), peer)
    if behaviour == "truncated":
        sock.sendto(answer(query, FORGED, 0x8380), peer)
    elif behaviour == "cut" and query.endswith(AAAA):
        sock.sendto(answer(query, FORGED)[:-1], peer)
    else:
        sock.sendto(answer(query, TRUE), peer)


def main():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((sys.argv[1], 53))
    print("ready", flush=True)
    seen = []
    while True:
        ready = select.select([sock, sys.stdin], [], [])[0]
        if sock in ready:
            query, peer = sock.recvfrom(2000)
            seen.append({"port": peer[1], "data": query.hex()})
            respond(sock, peer, query, sys.argv[2])
        elif sys.stdin in ready:
            break
    for one in seen:
        print(json.dumps(one), flush=True)


if __name__ == "__main__":
    main()
