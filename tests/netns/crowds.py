"""Many flows at once, for inside.py: calls that keep their sockets in crowds, by name.

Flows begin one after the other, so that it is known which one was lost first.
"""

import contextlib
import itertools
import random
import resource
import selectors
import socket
import struct
import threading

_QUESTION = b"?" * 32  # as long as the longest answer of inside.serve()

_crowds = {}  # name: list of sockets


def serve_steady(port):
    """A TCP server that tells its client's port for each octet, for as long as the client likes."""
    listener = socket.create_server(("0.0.0.0", port), backlog=1024)
    threading.Thread(target=_serve_steady, args=(listener,), daemon=True).start()


def _serve_steady(listener):
    _allow_many_sockets()
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is listener:
                waiting.register(listener.accept()[0], selectors.EVENT_READ)
            elif not _answer(key.fileobj):
                waiting.unregister(key.fileobj)
                key.fileobj.close()


def _answer(connection):
    with contextlib.suppress(OSError):
        if connection.recv(1):
            connection.sendall(struct.pack(">H", connection.getpeername()[1]))
            return True
    return False


def gather(name, kind, places, hosts, count, losses, patience):
    """Begin flows of a socket each, from each of hosts in turn to each of places in turn.

    kind: "udp" or "tcp". losses: after so many the rest is not tried. Returns the ports that the
    places saw, in order; None for a flow that was lost.
    """
    _allow_many_sockets()
    crowd, seen = _crowds.setdefault(name, []), []
    turns = zip(range(count), itertools.cycle(hosts), itertools.cycle(places))
    for _, host, place in turns:
        client = socket.socket(type={"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}[kind])
        client.settimeout(patience)
        client.bind((host, 0))
        crowd.append(client)
        seen.append(_begin(client, tuple(place)))
        if seen.count(None) == losses:
            break
    return seen


def _begin(client, place):
    with contextlib.suppress(OSError):
        client.connect(place)
        return _seen(client)
    return None


def _seen(client):
    """Our port as the other side of a connected socket sees it, or None."""
    with contextlib.suppress(OSError):
        if client.type == socket.SOCK_DGRAM:
            client.send(_QUESTION)
            return int(client.recv(99).split()[1])
        client.send(b"?")
        return struct.unpack(">H", client.recv(2))[0]
    return None


def still(name):
    """Ports as the same places see them now, in order; None for a flow that has ended."""
    return [_seen(client) for client in _crowds[name]]


def wander(name, hosts, count, places, order, patience):
    """For each of so many UDP sockets, the ports that the places saw. order: "endpoint", one
    endpoint after the other visits all places; "place", all visit one after the other; or
    "shuffled"."""
    _allow_many_sockets()
    crowd = _crowds.setdefault(name, [])
    for _, host in zip(range(count), itertools.cycle(hosts)):
        client = socket.socket(type=socket.SOCK_DGRAM)
        client.settimeout(patience)
        client.bind((host, 0))
        crowd.append(client)
    steps = [(number, place) for number in range(count) for place in range(len(places))]
    if order == "place":
        steps.sort(key=lambda step: step[1])
    elif order == "shuffled":
        random.Random(1).shuffle(steps)
    seen = [[] for _ in crowd]
    for number, place in steps:
        crowd[number].sendto(_QUESTION, tuple(places[place]))
        with contextlib.suppress(OSError):
            seen[number].append(int(crowd[number].recv(99).split()[1]))
    return seen


def scatter(name):
    """End all flows of a crowd; TCP's by RST, so that the other side forgets them, too."""
    for client in _crowds.pop(name, []):
        if client.type == socket.SOCK_STREAM:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def _allow_many_sockets():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


CALLS = [serve_steady, gather, still, wander, scatter]
