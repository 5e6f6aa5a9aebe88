"""A small ubusd for machines that have none: `python standin.py -s SOCKET`, as ubusd is called.

It does what OpenWrt 24.10's ubusd does for its clients, with a codec of its own, so that a fault of
pyubus's codec does not cancel out. The contract suite runs against both and keeps it honest. It has
no monitor and no ACL files: whoever is another user than its own may do nothing, as with the
real one where no file allows it.
"""

import errno
import grp
import os
import pwd
import random
import selectors
import socket
import struct
import sys

HELLO, STATUS, DATA, PING, LOOKUP, INVOKE, ADD, REMOVE, SUBSCRIBE, UNSUBSCRIBE, NOTIFY = range(11)
(
    A_STATUS,
    A_OBJPATH,
    A_OBJID,
    A_METHOD,
    A_OBJTYPE,
    A_SIGNATURE,
    A_DATA,
    A_TARGET,
    A_ACTIVE,
    A_NO_REPLY,
    A_SUBSCRIBERS,
    A_USER,
) = range(1, 13)
A_GROUP = 13
OK, INVALID_COMMAND, INVALID_ARGUMENT, NOT_FOUND, DENIED = 0, 1, 2, 4, 6
INTEGERS = (A_STATUS, A_OBJID, A_OBJTYPE)
STRINGS = (A_OBJPATH, A_METHOD, A_USER, A_GROUP)
MAX_MESSAGE = 1 << 20
SYSTEM_OBJECTS = 1024  # IDs below are ubusd's own
EVENTS = 1
T_ARRAY, T_TABLE, T_STRING, T_INT64, T_INT32, T_INT16, T_INT8, T_DOUBLE = range(1, 9)
WIDTHS = {T_INT64: 8, T_INT32: 4, T_INT16: 2, T_INT8: 1}


def blob(number, payload):
    return (
        struct.pack(">I", number << 24 | 4 + len(payload)) + payload + b"\0" * (-len(payload) % 4)
    )


def u32(number, value):
    return blob(number, struct.pack(">I", value))


def cstring(number, value):
    return blob(number, value + b"\0")


def named(kind, name, payload):
    header = struct.pack(">H", len(name)) + name + b"\0"
    return blob(0x80 | kind, header + b"\0" * (-len(header) % 4) + payload)


def split(data):
    """(flag and number, payload, all of it) of each attribute; it ends where libubox ends."""
    while len(data) >= 4:
        word = struct.unpack(">I", data[:4])[0]
        length = word & 0xFFFFFF
        padded = (length + 3) & ~3
        if length < 4 or padded > len(data):
            return
        yield word >> 24, data[4:length], data[:padded]
        data = data[padded:]


def parse(body):
    """Attributes of a message that have the right type (blob_parse_untrusted)."""
    found = {}
    for number, payload, _ in split(body):
        number &= 0x7F
        if number in INTEGERS:
            if len(payload) == 4:
                found[number] = struct.unpack(">I", payload)[0]
        elif number in STRINGS:
            if payload.endswith(b"\0"):
                found[number] = payload.split(b"\0")[0]
        elif number <= A_GROUP:
            found[number] = payload
    return found


def fields(data):
    """(type, name, payload) of each blobmsg field, or ValueError (blobmsg_check_attr)."""
    for number, payload, _ in split(data):
        kind, name = number & 0x7F, None
        if number & 0x80:
            if len(payload) < 2:
                raise ValueError
            length = struct.unpack(">H", payload[:2])[0]
            start = (length + 3 + 3) & ~3
            if start > len(payload) or payload[2 + length]:
                raise ValueError
            name, payload = payload[2 : 2 + length], payload[start:]
        wrong_width = kind in WIDTHS and len(payload) != WIDTHS[kind]
        if kind > T_DOUBLE or wrong_width or (kind == T_STRING and not payload.endswith(b"\0")):
            raise ValueError
        yield kind, name, payload


def pick(data, wanted):
    """{name: payload} of the first fields with these names and types (blobmsg_parse)."""
    found = {}
    try:
        for kind, name, payload in fields(data or b""):
            if wanted.get(name) == kind:
                found.setdefault(name, payload)
    except ValueError:
        pass
    return found


class Object:
    def __init__(self, number, client, path, methods):
        self.number = number
        self.client = client
        self.path = path
        self.methods = methods  # signature's fields, or None without a type
        self.patterns = []
        self.subscribers = []  # newest first
        self.targets = []
        self.seq = 0


class Client:
    def __init__(self, number, sock, trusted, user, group):
        self.number = number
        self.sock = sock
        self.trusted = trusted
        self.user = user
        self.group = group
        self.incoming = b""
        self.fd = None
        self.outgoing = []  # [octets, file descriptor or None]


class Ubusd:
    def __init__(self, path):
        self.selector = selectors.DefaultSelector()
        self.clients = {}
        self.objects = {}
        self.paths = {}
        self.event_seq = 0
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(128)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, None)

    def run(self):
        while True:
            for key, events in self.selector.select():
                client = key.data
                if client is None:
                    self.accept()
                    continue
                if events & selectors.EVENT_WRITE:
                    self.flush(client)
                if events & selectors.EVENT_READ and client.number in self.clients:
                    self.read(client)

    def accept(self):
        sock = self.listener.accept()[0]
        sock.setblocking(False)
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, gid = struct.unpack("iII", credentials)
        name = pwd.getpwuid(uid).pw_name.encode()
        group = grp.getgrgid(gid).gr_name.encode()
        client = Client(self.new_id(self.clients), sock, uid in (0, os.getuid()), name, group)
        self.clients[client.number] = client
        self.selector.register(sock, selectors.EVENT_READ, client)
        self.send(client, HELLO, 0, client.number, b"")

    @staticmethod
    def new_id(taken):
        while True:
            number = random.getrandbits(32)
            if number >= SYSTEM_OBJECTS and number not in taken:
                return number

    # Octets

    def send(self, client, kind, seq, peer, body, fd=None):
        octets = struct.pack(">BBHII", 0, kind, seq & 0xFFFF, peer, 4 + len(body)) + body
        waiting = sum(len(one[0]) for one in client.outgoing)
        if client.outgoing and waiting + len(octets) > MAX_MESSAGE:
            return  # ubusd drops what a slow client does not take
        client.outgoing.append([octets, None if fd is None else os.dup(fd)])
        self.flush(client)

    def flush(self, client):
        while client.outgoing and client.number in self.clients:
            octets, fd = client.outgoing[0]
            try:
                if fd is None:
                    sent = client.sock.send(octets)
                else:
                    sent = socket.send_fds(client.sock, [octets], [fd])
                    os.close(fd)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    break
                return  # reading notices that it is gone
            client.outgoing[0] = [octets[sent:], None]
            if sent == len(octets):
                client.outgoing.pop(0)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.outgoing else 0)
        if client.number in self.clients:
            self.selector.modify(client.sock, events, client)

    def read(self, client):
        try:
            data, fds, _, _ = socket.recv_fds(client.sock, 65536, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if fds:
            client.fd = fds[0]
        if not data:
            self.drop(client)
            return
        client.incoming += data
        while len(client.incoming) >= 12 and client.number in self.clients:
            _, kind, seq, peer, word = struct.unpack(">BBHII", client.incoming[:12])
            length = word & 0xFFFFFF
            if length < 4 or (length + 3) & ~3 > MAX_MESSAGE:
                self.drop(client)
                return
            if len(client.incoming) < 8 + length:
                return
            body = client.incoming[12 : 8 + length]
            client.incoming = client.incoming[8 + length :]
            fd, client.fd = client.fd, None
            self.handle(client, kind, seq, peer, body, fd)
            if fd is not None:
                os.close(fd)

    def drop(self, client):
        self.clients.pop(client.number)
        self.selector.unregister(client.sock)
        for one in [one for one in self.objects.values() if one.client is client]:
            self.free(one)
        client.sock.close()

    # Commands

    def handle(self, client, kind, seq, peer, body, fd):
        commands = {
            PING: self.ping,
            LOOKUP: self.lookup,
            INVOKE: self.invoke,
            ADD: self.add,
            REMOVE: self.remove,
            SUBSCRIBE: self.subscribe,
            UNSUBSCRIBE: self.unsubscribe,
            NOTIFY: self.notify,
            STATUS: self.respond,
            DATA: self.respond,
        }
        command = commands.get(kind)
        status = INVALID_COMMAND
        if command:
            status = command(client, (kind, seq, peer, body, fd), parse(body))
        if status is not None:
            self.send(client, STATUS, seq, peer, u32(A_STATUS, status))

    def ping(self, client, message, _):
        self.send(client, DATA, message[1], message[2], message[3])
        return OK

    def data(self, client, message, body):
        self.send(client, DATA, message[1], message[2], body)

    def add(self, client, message, attributes):
        methods = None
        if A_SIGNATURE in attributes:
            methods = [whole for _, _, whole in split(attributes[A_SIGNATURE])]
            try:
                if not all(name for _, name, _ in fields(attributes[A_SIGNATURE])):
                    methods = None
            except ValueError:
                methods = None
        path = attributes.get(A_OBJPATH)
        if path is not None and (path in self.paths or not client.trusted):
            return INVALID_ARGUMENT
        one = Object(self.new_id(self.objects), client, path, methods)
        self.objects[one.number] = one
        if path is not None:
            self.paths[path] = one
            self.object_event(b"ubus.object.add", one)
        body = u32(A_OBJID, one.number)
        if methods is not None:
            body += u32(A_OBJTYPE, self.new_id({}))
        self.data(client, message, body)
        return OK

    def remove(self, client, message, attributes):
        if A_OBJID not in attributes:
            return INVALID_ARGUMENT
        one = self.objects.get(attributes[A_OBJID])
        if one is None:
            return NOT_FOUND
        if one.client is not client:
            return DENIED
        self.data(client, message, u32(A_OBJID, one.number))
        self.free(one)
        return OK

    def free(self, one):
        for target in list(one.targets):
            self.end(one, target)
        for subscriber in list(one.subscribers):
            body = u32(A_OBJID, subscriber.number) + u32(A_TARGET, one.number)
            subscriber.seq += 1
            self.send(subscriber.client, UNSUBSCRIBE, subscriber.seq, 0, body)
            self.end(subscriber, one)
        one.patterns = []
        if one.path is not None:
            self.object_event(b"ubus.object.remove", one)
            del self.paths[one.path]
        del self.objects[one.number]

    def end(self, subscriber, target):
        subscriber.targets.remove(target)
        target.subscribers.remove(subscriber)
        if not target.subscribers:
            self.subscription_changed(target)

    def subscription_changed(self, target):
        target.seq += 1
        body = u32(A_OBJID, target.number) + blob(A_ACTIVE, bytes([bool(target.subscribers)]))
        self.send(target.client, NOTIFY, target.seq, 0, body)

    def lookup(self, client, message, attributes):
        pattern = attributes.get(A_OBJPATH)
        if pattern is None:
            found = sorted(self.paths)
        elif not pattern:
            return INVALID_ARGUMENT
        elif pattern.endswith(b"*"):
            found = sorted(path for path in self.paths if path.startswith(pattern[:-1]))
        else:
            found = [path for path in self.paths if path == pattern]
        if pattern is not None and not found:
            return NOT_FOUND
        for path in found:
            one = self.paths[path]
            if one.methods is None or (one.methods and not client.trusted):
                continue
            body = cstring(A_OBJPATH, path) + u32(A_OBJID, one.number)
            body += u32(A_OBJTYPE, one.number) + blob(A_SIGNATURE, b"".join(one.methods))
            self.data(client, message, body)
        return OK

    def invoke(self, client, message, attributes):
        if A_METHOD not in attributes or A_OBJID not in attributes:
            return INVALID_ARGUMENT
        data = attributes.get(A_DATA)
        if attributes[A_OBJID] == EVENTS:
            return self.event_command(client, attributes[A_METHOD], data)
        one = self.objects.get(attributes[A_OBJID])
        if one is None:
            return NOT_FOUND
        if one.path is not None and not client.trusted:
            return DENIED
        self.forward(client, message, one, attributes[A_METHOD], data)
        return None

    def forward(self, client, message, one, method, data, before=b""):
        body = before + u32(A_OBJID, one.number) + cstring(A_METHOD, method)
        body += cstring(A_USER, client.user) + cstring(A_GROUP, client.group)
        if data is not None:
            body += blob(A_DATA, data)
        self.send(one.client, INVOKE, message[1], client.number, body, message[4])

    def respond(self, client, message, attributes):
        kind, seq, peer, body, fd = message
        one = self.objects.get(attributes.get(A_OBJID))
        needed = A_STATUS if kind == STATUS else A_DATA
        if one and one.client is client and needed in attributes and peer in self.clients:
            self.send(self.clients[peer], kind, seq, one.number, body, fd)

    def notify(self, client, message, attributes):
        if A_METHOD not in attributes or A_OBJID not in attributes:
            return INVALID_ARGUMENT
        one = self.objects.get(attributes[A_OBJID])
        if one is None:
            return NOT_FOUND
        if one.client is not client:
            return DENIED
        silent = attributes.get(A_NO_REPLY, b"\0") != b"\0"
        if not silent:
            inner = b"".join(u32(0, each.number) for each in one.subscribers)
            body = u32(A_OBJID, one.number) + blob(A_SUBSCRIBERS, inner) + u32(A_STATUS, 0)
            self.send(client, STATUS, message[1], message[2], body)
        before = blob(A_NO_REPLY, b"\1") if silent else b""
        for each in list(one.subscribers):
            method = attributes[A_METHOD]
            self.forward(client, message, each, method, attributes.get(A_DATA), before)
        return None

    def subscribe(self, client, message, attributes):
        if A_OBJID not in attributes or A_TARGET not in attributes:
            return INVALID_ARGUMENT
        one = self.objects.get(attributes[A_OBJID])
        if one is None:
            return NOT_FOUND
        if one.client is not client:
            return INVALID_ARGUMENT
        target = self.objects.get(struct.unpack(">I", attributes[A_TARGET])[0])
        if target is None:
            return NOT_FOUND
        if target.client is client:
            return INVALID_ARGUMENT
        if target.path is not None and not client.trusted:
            return NOT_FOUND
        one.targets.insert(0, target)
        target.subscribers.insert(0, one)
        if len(target.subscribers) == 1:
            self.subscription_changed(target)
        return OK

    def unsubscribe(self, client, message, attributes):
        if A_OBJID not in attributes or A_TARGET not in attributes:
            return INVALID_ARGUMENT
        one = self.objects.get(attributes[A_OBJID])
        if one is None:
            return NOT_FOUND
        if one.client is not client:
            return INVALID_ARGUMENT
        target = self.objects.get(struct.unpack(">I", attributes[A_TARGET])[0])
        if target not in one.targets:
            return NOT_FOUND
        self.end(one, target)
        return OK

    # Events

    def event_command(self, client, method, data):
        if method == b"register":
            return self.register(client, data)
        if method == b"send":
            wanted = pick(data, {b"id": T_STRING, b"data": T_TABLE})
            if len(wanted) < 2:
                return INVALID_ARGUMENT
            event = wanted[b"id"].split(b"\0")[0]
            if event.startswith(b"ubus.") or not client.trusted:
                return DENIED
            self.event(client, event, wanted[b"data"])
            return OK
        return INVALID_COMMAND

    def register(self, client, data):
        wanted = pick(data, {b"object": T_INT32, b"pattern": T_STRING})
        if len(wanted) < 2:
            return INVALID_ARGUMENT
        number = struct.unpack(">I", wanted[b"object"])[0]
        pattern = wanted[b"pattern"].split(b"\0")[0]
        if number < SYSTEM_OBJECTS:
            return DENIED
        one = self.objects.get(number)
        if one is None:
            return NOT_FOUND
        if one.client is not client or not pattern or not client.trusted:
            return DENIED
        one.patterns.append(pattern)
        return OK

    def event(self, sender, event, data):
        for one in list(self.objects.values()):
            wanted = any(
                event.startswith(pattern[:-1]) if pattern.endswith(b"*") else event == pattern
                for pattern in one.patterns
            )
            if wanted and one.client is not sender:
                body = u32(A_OBJID, one.number) + cstring(A_METHOD, event) + blob(A_DATA, data)
                self.event_seq += 1
                self.send(one.client, INVOKE, self.event_seq, 0, body)

    def object_event(self, event, one):
        number = named(T_INT32, b"id", struct.pack(">I", one.number))
        self.event(None, event, number + named(T_STRING, b"path", one.path + b"\0"))


if __name__ == "__main__":
    Ubusd(sys.argv[sys.argv.index("-s") + 1]).run()
