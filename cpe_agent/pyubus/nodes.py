"""What has an ID at ubusd: objects with methods, listeners for events, subscribers to objects."""

from collections import namedtuple

from . import blobmsg, message
from .status import (
    CONNECTION_FAILED,
    METHOD_NOT_FOUND,
    NOT_FOUND,
    OK,
    PARSE_ERROR,
    UNKNOWN_ERROR,
    UbusError,
    words,
)

DEFERRED = object()  # what a handler returns who will call request.reply() later

_OBJECT_ADDED = "ubus.object.add"


class Method(namedtuple("Method", ("name", "handler", "arguments"))):
    """A method of an object.

    handler(request) returns a dict to be sent back, None for nothing, or DEFERRED; UbusError says
    the status. arguments: pairs of name and type (blobmsg.STRING, ...; None for any); callers may
    leave out any of them, but add no other, nor use other types.
    """


class Request:
    """A call of a method of ours.

    method, user, group: str (the last two as ubusd knows the caller). arguments: dict.
    """

    def __init__(self, answer, method, arguments, attributes):
        self._answer = answer  # None when it is answered
        self.method = method
        self.arguments = arguments
        self.user = attributes.get(message.ATTR_USER, "")
        self.group = attributes.get(message.ATTR_GROUP, "")

    def reply(self, data=None, status=OK):
        """Answer, once; a second answer, or one after ubusd has restarted, is dropped.

        data: dict or None. Raises UbusError(INVALID_ARGUMENT) for data that ubus cannot say; the
        call is still open then.
        """
        if self._answer:
            self._answer(data, status)
            self._answer = None


class Node:
    """Something with an object ID.

    id: None while ubusd has not given one. status: why not, or OK.
    """

    path = None
    signature = b""

    def __init__(self):
        self.id = None
        self.status = CONNECTION_FAILED

    def on_registered(self, bus):
        """ubusd has given an ID."""

    def on_lost(self):
        """The connection, and the ID with it, are gone."""

    def on_notify(self, active):
        """Subscribers: the first came, or the last went."""

    def on_unsubscribed(self, target):
        """The object with the ID target, to which we were subscribed, is gone."""


class Object(Node):
    """An object with methods that others can call and subscribe to.

    has_subscribers: bool.
    """

    def __init__(self, path, methods, on_subscribers):
        Node.__init__(self)
        self.path = path
        self.has_subscribers = False
        self._methods = {method.name: method for method in methods}
        self._on_subscribers = on_subscribers
        self.signature = b"".join([_signature(method) for method in methods])

    def on_lost(self):
        self.on_notify(False)

    def on_notify(self, active):
        if active != self.has_subscribers:
            self.has_subscribers = active
            if self._on_subscribers:
                self._on_subscribers(active)

    def on_invoke(self, bus, call):
        """Have the handler answer a call."""
        method = self._methods.get(call.method)
        if method is None:
            call.answer(None, METHOD_NOT_FOUND)
            return
        try:
            arguments = blobmsg.decode_arguments(call.data, dict(method.arguments))
        except UbusError as error:
            call.answer(None, error.status)
            return
        request = Request(call.answer, call.method, arguments, call.attributes)
        try:
            data = _result(method, request)
            if data is not DEFERRED:
                request.reply(data)
        except Exception as error:  # a caller must not be able to end the program
            request.reply(None, UNKNOWN_ERROR)
            bus.trouble("method %s of %s: %r" % (call.method, self.path, error))


def _result(method, request):
    try:
        return method.handler(request)
    except UbusError as error:
        request.reply(None, error.status)
        return DEFERRED


def _signature(method):
    table = b"".join(
        [
            blobmsg.field(blobmsg.INT32, name, (kind or blobmsg.UNSPEC).to_bytes(4, "big"))
            for name, kind in method.arguments
        ]
    )
    return blobmsg.field(blobmsg.TABLE, method.name, table)


class Listener(Node):
    """Hears the events of a pattern."""

    def __init__(self, pattern, callback):
        Node.__init__(self)
        self._pattern = pattern
        self._callback = callback

    def on_registered(self, bus):
        bus.register_pattern(self, self._pattern)

    def on_invoke(self, bus, call):
        """An event has come."""
        bus.tell(call, self._callback)


class Subscriber(Node):
    """Hears the notifications of the object with a path, whenever there is one.

    active: True while subscribed.
    """

    def __init__(self, path, callback, on_active):
        Node.__init__(self)
        self._path = path
        self._callback = callback
        self._on_active = on_active
        self._target = None  # ID of the object to which we are, or ask to be, subscribed
        self.active = False

    def on_registered(self, bus):
        # First the event, then the look: so an object that comes in between is not missed.
        bus.register_pattern(self, _OBJECT_ADDED)
        bus.find(self._path, lambda status, target: self._on_found(bus, status, target))

    def on_lost(self):
        self._target = None
        self._set_active(False)

    def on_unsubscribed(self, target):
        if target == self._target:
            self.on_lost()

    def on_invoke(self, bus, call):
        """A notification of the object's, or the event that an object is there."""
        if call.from_ubusd:
            data = call.decoded()
            if data and data.get("path") == self._path and isinstance(data.get("id"), int):
                self._follow(bus, data["id"] & 0xFFFFFFFF)
        else:
            bus.tell(call, self._callback)

    def _on_found(self, bus, status, target):
        if status == OK:
            self._follow(bus, target)
        elif status not in (NOT_FOUND, CONNECTION_FAILED):
            bus.trouble("looking for %s: %s" % (self._path, words(status)))

    def _follow(self, bus, target):
        if target == self._target:
            return  # ubusd would send each notification twice
        self._target = target
        bus.request(
            message.SUBSCRIBE,
            ((message.ATTR_OBJID, self.id), (message.ATTR_TARGET, target)),
            lambda status, _: self._on_subscribed(bus, target, status),
        )

    def _on_subscribed(self, bus, target, status):
        if target != self._target:
            return
        if status == OK:
            self._set_active(True)
        else:
            self._target = None
            if status != CONNECTION_FAILED:
                bus.trouble("subscribing to %s: %s" % (self._path, words(status)))

    def _set_active(self, active):
        if active != self.active:
            self.active = active
            if self._on_active:
                self._on_active(active)


class Call:
    """A message that invokes a node of ours. answer(data, status): see Request.reply."""

    def __init__(self, attributes, from_ubusd, answer):
        self.attributes = attributes
        self.from_ubusd = from_ubusd
        self.answer = answer
        self.method = attributes.get(message.ATTR_METHOD, "")
        self.data = attributes.get(message.ATTR_DATA, b"")

    def decoded(self):
        """The data as a dict; None, and the caller told so, if it is none."""
        try:
            return blobmsg.decode(self.data)
        except UbusError:
            self.answer(None, PARSE_ERROR)
            return None
