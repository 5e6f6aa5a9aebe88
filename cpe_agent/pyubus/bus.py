"""A client's side of ubus without I/O: octets and time in, octets and calls of your functions out.

The connection around it tells `connected`, `receive`, `sent` and `lost`, and asks `broken` and
`output`. Objects, listeners and subscribers outlive connections: whenever ubusd says hello, they
are registered anew. What comes from ubusd can at worst end the connection; nothing is raised.
"""

from collections import namedtuple

from . import blobmsg, message, nodes
from .status import (
    CONNECTION_FAILED,
    INVALID_ARGUMENT,
    NO_MEMORY,
    NOT_FOUND,
    OK,
    PARSE_ERROR,
    PERMISSION_DENIED,
    TIMEOUT,
    UNKNOWN_ERROR,
    UbusError,
    words,
)

TIMEOUT_DEFAULT = 30000  # ms; as the ubus command waits

_OBJECT_EVENT = 1  # ID of ubusd's own object for events
_PATIENCE = 10000  # ms; ubusd itself answers at once
_RETRY = 5000  # ms; until a refused object is tried again
_MAX_REQUESTS = 128  # open at a time
_MAX_FOUND = 1024  # objects that a lookup gives
_MAX_OUTPUT = blobmsg.MAX_LENGTH + 65536  # octets that wait for ubusd

ObjectInfo = namedtuple("ObjectInfo", ("path", "id", "methods"))


class _Request:
    """A question to ubusd or another client, until its status comes."""

    def __init__(self, peer, deadline, on_done, on_data):
        self.peer = peer
        self.deadline = deadline
        self.on_done = on_done
        self.on_data = on_data
        self.data = None
        self.error = None


class Bus:
    """One client of ubusd."""

    def __init__(self, now, trouble=None, on_up=None, max_message=262144):
        """now(): ms, never backwards. trouble(text): what a person should know. on_up(): ubusd has
        said hello. max_message: octets; of a longer answer only its end is noticed (NO_MEMORY)."""
        self._now = now
        self._trouble = trouble
        self._on_up = on_up
        self._max_message = max_message
        self._nodes = []  # all that shall be registered
        self._ids = {}  # object ID: node
        self._adding = []  # nodes whose ADD_OBJECT is on its way
        self._retry_at = None
        self._seq = 0
        self._generation = 0  # of the connection
        self._reset()

    def _reset(self):
        self.up = False
        self.broken = None  # why the connection must be given up
        # Messages that ubusd shall get. Apart: MicroPython's heap has no long free stretches.
        self._output = []
        self._waiting = 0  # octets in them
        self._framer = message.Framer(self._max_message)
        self._requests = {}  # seq: _Request
        self._hello_by = None

    # The connection's side

    def connected(self):
        """There is a connection; ubusd has to say hello now."""
        self._reset()
        self._hello_by = self._now() + _PATIENCE

    def lost(self):
        """There is no connection any more: what was asked fails with CONNECTION_FAILED."""
        self._generation += 1
        requests = self._requests
        self._reset()
        self._ids = {}
        self._adding = []
        self._retry_at = None
        for request in list(requests.values()):
            self._finish(request, CONNECTION_FAILED)
        for node in list(self._nodes):
            node.id = None
            node.status = CONNECTION_FAILED
            self._guard(node.on_lost)

    def receive(self, data):
        """Octets from ubusd."""
        self._framer.feed(data)
        while not self.broken:
            try:
                one = self._framer.next()
            except UbusError as error:
                self.broken = "this is not ubus: %s" % error
                return
            if one is None:
                return
            self._dispatch(one)

    def output(self):
        """Octets that ubusd shall get next; none if there is nothing."""
        return self._output[0] if self._output else b""

    def sent(self, count):
        """So many octets of output() have gone out."""
        self._waiting -= count
        if count < len(self._output[0]):
            self._output[0] = self._output[0][count:]
        else:
            self._output.pop(0)

    def timer(self):
        """ms when handle_timer is due, or None."""
        times = [request.deadline for request in self._requests.values()]
        times += [at for at in (self._hello_by, self._retry_at) if at is not None]
        return min(times) if times else None

    def handle_timer(self, now):
        """End what has waited too long, and try again what was refused."""
        if self._hello_by is not None and now >= self._hello_by:
            self._hello_by = None
            self.broken = "ubusd says no hello"
        for seq, request in list(self._requests.items()):
            if now >= request.deadline and self._requests.pop(seq, None):
                self._finish(request, TIMEOUT)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            for node in list(self._nodes):
                self._register(node)

    # What it is for

    def add_object(self, path, methods, on_subscribers=None):
        """Offer an object. methods: list of Method. on_subscribers(bool): the first subscriber
        came, or the last one went. Returns the nodes.Object. Raises UbusError(INVALID_ARGUMENT) for
        names that cannot be."""
        blobmsg.string(path)
        return self._add(nodes.Object(path, methods, on_subscribers))

    def listen(self, pattern, callback):
        """Hear events: callback(event, data). pattern: of the event, with * at the end for any
        more. Our own events are not among them; ubusd keeps those from us."""
        blobmsg.string(pattern)
        return self._add(nodes.Listener(pattern, callback))

    def subscribe(self, path, callback, on_active=None):
        """Hear an object's notifications: callback(type, data). on_active(bool): subscribed, or not
        any more. The object need not be there yet, and may come back."""
        blobmsg.string(path)
        return self._add(nodes.Subscriber(path, callback, on_active))

    def remove(self, node):
        """Take back an object, listener or subscriber."""
        if node not in self._nodes:
            return
        self._nodes.remove(node)
        if node.id is not None:
            self._unregister(node)

    def notify(self, node, kind, data=None):
        """Tell an object's subscribers; kind: str, data: dict. False if it cannot be sent now.

        Raises UbusError(INVALID_ARGUMENT) for data that ubus cannot say.
        """
        values = (
            (message.ATTR_OBJID, node.id or 0),
            (message.ATTR_METHOD, kind),
            (message.ATTR_DATA, blobmsg.encode(data or {})),
            (message.ATTR_NO_REPLY, 1),
        )
        octets = message.pack(message.NOTIFY, self._next_seq(), node.id or 0, values)
        return node.id is not None and self._send(octets)

    def send_event(self, event, data=None, on_done=None):
        """Send an event to all who listen. data: dict. on_done(status)."""
        self._invoke(
            _OBJECT_EVENT,
            "send",
            {"id": event, "data": data or {}},
            lambda status, _: on_done and on_done(status),
            self._now() + _PATIENCE,
        )

    def call(self, path, method, arguments, on_done, timeout=TIMEOUT_DEFAULT):
        """Call a method: on_done(status, data). data: dict, {} for an answer without; None unless
        OK. timeout: ms. on_done may be called before this returns."""
        deadline = self._now() + timeout

        def found(status, target):
            if status == OK:
                self._invoke(target, method, arguments or {}, answered, deadline)
            else:
                on_done(status, None)

        def answered(status, request):
            data = None
            if status == OK:
                try:
                    data = blobmsg.decode((request.data or {}).get(message.ATTR_DATA, b""))
                except UbusError as error:
                    status = error.status
            on_done(status, data)

        self.find(path, found, deadline)

    def lookup(self, pattern, on_done, timeout=TIMEOUT_DEFAULT):
        """Look for objects: on_done(status, [ObjectInfo]). pattern: path, with * at the end for any
        more, or None for all. Methods are {name: {argument: type}}. timeout: ms."""
        found = []

        def on_data(attributes):
            if len(found) >= _MAX_FOUND:
                raise UbusError(NO_MEMORY, "too many objects")
            found.append(_object_info(attributes))

        def done(status, _):
            on_done(status, found if status == OK else [])

        values = () if pattern is None else ((message.ATTR_OBJPATH, pattern),)
        deadline = self._now() + timeout
        self.request(message.LOOKUP, values, done, on_data=on_data, deadline=deadline)

    # What nodes need

    def trouble(self, text):
        """Say what a person should know."""
        if self._trouble:
            self._trouble(text)

    def tell(self, call, callback):
        """callback(method, data) of an event or a notification, and the answer to it."""
        data = call.decoded()
        if data is not None:
            done = self._guard(lambda: callback(call.method, data))
            call.answer(None, OK if done else UNKNOWN_ERROR)

    def find(self, path, on_done, deadline=None):
        """Look for one object: on_done(status, ID). deadline: ms."""

        def done(status, request):
            if status == OK and request.data is None:
                # ubusd gives nothing of an object of whose methods we may call none.
                status = PERMISSION_DENIED
            target = request.data.get(message.ATTR_OBJID) if status == OK else None
            on_done(PARSE_ERROR if status == OK and target is None else status, target)

        self.request(message.LOOKUP, ((message.ATTR_OBJPATH, path),), done, deadline=deadline)

    def register_pattern(self, node, pattern):
        """Have ubusd invoke a node for events."""

        def done(status, _):
            if status not in (OK, CONNECTION_FAILED):
                node.status = status
                self.trouble("listening for %s: %s" % (pattern, words(status)))

        values = {"object": blobmsg.Typed(blobmsg.INT32, node.id), "pattern": pattern}
        self._invoke(_OBJECT_EVENT, "register", values, done, self._now() + _PATIENCE)

    def request(self, kind, values, on_done, on_data=None, peer=0, deadline=None):
        """Ask ubusd (peer 0) or an object: on_done(status, _Request). on_data(attributes) is called
        for each answer; without it, the last one is kept. deadline: ms."""
        deadline = self._now() + _PATIENCE if deadline is None else deadline
        request = _Request(peer, deadline, on_done, on_data)
        seq = self._next_seq()
        try:
            octets = message.pack(kind, seq, peer, values)
        except UbusError as error:
            self._finish(request, error.status)
            return
        if not self.up:
            self._finish(request, CONNECTION_FAILED)
        elif len(self._requests) >= _MAX_REQUESTS or not self._send(octets):
            self._finish(request, NO_MEMORY)
        else:
            self._requests[seq] = request

    # Within

    def _invoke(self, peer, method, data, on_done, deadline):
        try:
            data = blobmsg.encode(data)
        except UbusError as error:
            self._finish(_Request(peer, deadline, on_done, None), error.status)
            return
        values = (
            (message.ATTR_OBJID, peer),
            (message.ATTR_METHOD, method),
            (message.ATTR_DATA, data),
        )
        self.request(message.INVOKE, values, on_done, peer=peer, deadline=deadline)

    def _next_seq(self):
        self._seq = self._seq + 1 & 0xFFFF
        while self._seq in self._requests:
            self._seq = self._seq + 1 & 0xFFFF
        return self._seq

    def _send(self, octets):
        if not self.up or self._waiting + len(octets) > _MAX_OUTPUT:
            return False
        self._output.append(octets)
        self._waiting += len(octets)
        return True

    def _guard(self, function):
        """True if a function of the user's came to its end. Its faults are told, not raised:
        somebody else on the bus may be able to bring them about."""
        try:
            function()
        except Exception as error:
            self.trouble("a callback failed: %r" % error)
            return False
        return True

    def _finish(self, request, status):
        self._guard(lambda: request.on_done(request.error or status, request))

    def _dispatch(self, one):
        handlers = {
            message.HELLO: self._on_hello,
            message.STATUS: self._on_status,
            message.DATA: self._on_data,
            message.INVOKE: self._on_invoke,
            message.NOTIFY: self._on_notify,
            message.UNSUBSCRIBE: self._on_unsubscribe,
        }
        if not self.up and one.type != message.HELLO:
            self.broken = "ubusd has not said hello"
            return
        handler = handlers.get(one.type)
        if handler is None:
            return
        try:
            attributes = None if one.body is None else message.attributes(one.body)
        except UbusError as error:
            self.trouble(str(error))
            attributes = None
        handler(one, attributes)

    def _on_hello(self, one, attributes):
        if self.up:
            return
        self.up = True
        self._hello_by = None
        if self._on_up:
            self._guard(self._on_up)
        for node in list(self._nodes):
            self._register(node)

    def _answered(self, one):
        request = self._requests.get(one.seq)
        return request if request and request.peer == one.peer else None

    def _on_status(self, one, attributes):
        request = self._answered(one)
        if request:
            self._requests.pop(one.seq)
            self._finish(request, (attributes or {}).get(message.ATTR_STATUS, PARSE_ERROR))

    def _on_data(self, one, attributes):
        request = self._answered(one)
        if request is None:
            return
        if attributes is None:
            request.error = NO_MEMORY if one.body is None else PARSE_ERROR
        elif request.on_data is None:
            request.data = attributes
        else:
            try:
                request.on_data(attributes)
            except UbusError as error:
                request.error = error.status

    def _on_invoke(self, one, attributes):
        attributes = attributes or {}
        node = self._ids.get(attributes.get(message.ATTR_OBJID))
        call = nodes.Call(attributes, one.peer == 0, self._answerer(one, attributes))
        if node is None:
            call.answer(None, NOT_FOUND)
        else:
            node.on_invoke(self, call)

    def _answerer(self, one, attributes):
        """What answers an invocation: answer(data, status)."""
        generation = self._generation
        target = attributes.get(message.ATTR_OBJID)
        silent = one.peer == 0 or target is None or attributes.get(message.ATTR_NO_REPLY)

        def answer(data, status):
            if silent or generation != self._generation:
                return
            octets = b""
            if data is not None:
                values = ((message.ATTR_OBJID, target), (message.ATTR_DATA, blobmsg.encode(data)))
                octets = message.pack(message.DATA, one.seq, one.peer, values)
            values = ((message.ATTR_STATUS, status), (message.ATTR_OBJID, target))
            octets += message.pack(message.STATUS, one.seq, one.peer, values)
            if not self._send(octets):
                self.broken = "ubusd takes nothing any more"

        return answer

    def _on_notify(self, one, attributes):
        node = self._ids.get((attributes or {}).get(message.ATTR_OBJID))
        if node and message.ATTR_ACTIVE in attributes:
            self._guard(lambda: node.on_notify(attributes[message.ATTR_ACTIVE] != 0))

    def _on_unsubscribe(self, one, attributes):
        node = self._ids.get((attributes or {}).get(message.ATTR_OBJID))
        if node and message.ATTR_TARGET in attributes:
            self._guard(lambda: node.on_unsubscribed(attributes[message.ATTR_TARGET]))

    # Registering

    def _add(self, node):
        self._nodes.append(node)
        self._register(node)
        return node

    def _register(self, node):
        if not self.up or node.id is not None or node in self._adding:
            return
        self._adding.append(node)
        values = ()
        if node.path is not None:
            values = ((message.ATTR_OBJPATH, node.path), (message.ATTR_SIGNATURE, node.signature))

        def on_data(attributes):
            if node.id is None and message.ATTR_OBJID in attributes:
                node.id = attributes[message.ATTR_OBJID]
                self._ids[node.id] = node

        def done(status, _):
            if status != CONNECTION_FAILED:
                self._adding.remove(node)
                self._on_added(node, status)

        self.request(message.ADD_OBJECT, values, done, on_data=on_data)

    def _on_added(self, node, status):
        if status == TIMEOUT:
            # It may be registered all the same, under an ID that we do not know.
            self.broken = "ubusd does not answer"
        elif status == OK and node.id is not None:
            node.status = OK
            if node in self._nodes:
                node.on_registered(self)
            else:
                self._unregister(node)
        else:
            if node.status != status:
                self.trouble("object %s: %s%s" % (node.path, words(status), _why(status)))
            node.status = status
            self._retry_at = self._now() + _RETRY

    def _unregister(self, node):
        values = ((message.ATTR_OBJID, node.id),)
        self._ids.pop(node.id, None)
        node.id = None
        node.status = CONNECTION_FAILED
        self.request(message.REMOVE_OBJECT, values, lambda status, _: None)
        self._guard(node.on_lost)


def _why(status):
    # ubusd has one status for both.
    if status == INVALID_ARGUMENT:
        return " (the name is taken, or publishing it is not allowed)"
    return ""


def _object_info(attributes):
    """ObjectInfo of an answer to a lookup. Raises UbusError(PARSE_ERROR)."""
    path = attributes.get(message.ATTR_OBJPATH)
    number = attributes.get(message.ATTR_OBJID)
    if path is None or number is None:
        raise UbusError(PARSE_ERROR, "an object without path or ID")
    methods = blobmsg.decode(attributes.get(message.ATTR_SIGNATURE, b""))
    return ObjectInfo(path, number, methods)
