"""Runs in the lab's guest isp: lines of JSON to the lwAFTR's control socket, answers to stdout.

Imports next to nothing: starting Python takes longer than all the rest in an emulated machine.
"""

import _socket
import sys

sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
sock.connect("/run/lwaftr.sock")
for line in sys.argv[1:]:
    sock.send(line.encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += sock.recv(65536)
    sys.stdout.write(answer.decode())
