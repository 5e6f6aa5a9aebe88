"""The bus and its connection in virtual time, without a socket: for CPython and MicroPython."""

from cpe_agent import pyubus
from cpe_agent.pyubus import blobmsg, connection, message
from cpe_agent.pyubus.bus import Bus

HELLO = message.pack(message.HELLO, 0, 5000, ())


class Bench:
    """A bus whose ubusd is the test."""

    def __init__(self, **options):
        self.time = 1000
        self.troubles = []
        self.bus = Bus(lambda: self.time, self.troubles.append, **options)

    def connect(self):
        self.bus.connected()
        self.bus.receive(HELLO)

    def sent(self):
        """Messages that went out since: [(type, seq, peer, attributes)]."""
        framer = message.Framer(1 << 20)
        while self.bus.output():
            framer.feed(self.bus.output())
            self.bus.sent(len(self.bus.output()))
        found = []
        one = framer.next()
        while one:
            found.append((one.type, one.seq, one.peer, message.attributes(one.body)))
            one = framer.next()
        return found

    def answer(self, seq, values=(), status=0, peer=0):
        if values:
            self.bus.receive(message.pack(message.DATA, seq, peer, values))
        self.bus.receive(message.pack(message.STATUS, seq, peer, [(message.ATTR_STATUS, status)]))

    def register(self, number):
        """Answer the one ADD_OBJECT that is out."""
        kind, seq, _, _ = self.sent()[0]
        assert kind == message.ADD_OBJECT
        self.answer(seq, [(message.ATTR_OBJID, number)])

    def pass_time(self, ms):
        self.time += ms
        self.bus.handle_timer(self.time)


def test_a_call_ends_at_its_timeout_not_before():
    bench = Bench()
    bench.connect()
    answers = []
    bench.bus.call("path", "method", {}, lambda *one: answers.append(one), 500)
    assert bench.bus.timer() == 1500
    bench.pass_time(499)
    assert answers == []
    bench.pass_time(1)
    assert answers == [(pyubus.TIMEOUT, None)]
    assert bench.bus.timer() is None


def test_the_time_of_the_lookup_counts_too():
    bench = Bench()
    bench.connect()
    answers = []
    bench.bus.call("path", "method", {}, lambda *one: answers.append(one), 500)
    bench.pass_time(400)
    seq = bench.sent()[0][1]
    bench.answer(seq, [(message.ATTR_OBJID, 7777)])
    assert bench.sent()[0][0] == message.INVOKE
    assert bench.bus.timer() == 1500


def test_an_answer_counts_only_from_whom_was_asked():
    bench = Bench()
    bench.connect()
    answers = []
    bench.bus.call("path", "method", {}, lambda *one: answers.append(one))
    bench.answer(bench.sent()[0][1], [(message.ATTR_OBJID, 7777)])
    seq = bench.sent()[0][1]
    bench.answer(seq, status=pyubus.OK, peer=7778)
    bench.answer(seq, status=pyubus.OK, peer=0)
    assert answers == []
    bench.answer(seq, status=pyubus.OK, peer=7777)
    assert len(answers) == 1 and answers[0][0] == pyubus.OK


def test_a_sequence_number_in_use_is_not_used_again():
    bench = Bench()
    bench.connect()
    bench.bus.lookup("waits", lambda *_: None, 1 << 30)
    waiting = bench.sent()[0][1]
    nobody = bench.bus.add_object("name", [])
    for _ in range(65536 - 2):  # each takes a number, and is not sent
        bench.bus.notify(nobody, "kind")
    bench.sent()
    bench.bus.lookup("next", lambda *_: None)
    assert bench.sent()[0][1] == waiting + 2  # two are in use: the lookup and the object


def test_an_object_that_is_refused_is_tried_again_and_told_once():
    bench = Bench()
    node = bench.bus.add_object("name", [])
    bench.connect()
    for _ in range(3):
        bench.answer(bench.sent()[0][1], status=pyubus.INVALID_ARGUMENT)
        assert node.status == pyubus.INVALID_ARGUMENT
        bench.pass_time(4999)
        assert bench.sent() == []
        bench.pass_time(1)
    assert len(bench.troubles) == 1
    assert "name" in bench.troubles[0]
    bench.register(7000)
    assert (node.id, node.status) == (7000, pyubus.OK)


def test_a_registration_that_is_out_is_not_sent_again():
    bench = Bench()
    bench.bus.add_object("refused", [])
    bench.connect()
    bench.answer(bench.sent()[0][1], status=pyubus.INVALID_ARGUMENT)
    bench.bus.add_object("slow", [])
    assert len(bench.sent()) == 1
    bench.pass_time(5000)
    assert [one[3][message.ATTR_OBJPATH] for one in bench.sent()] == ["refused"]


def appeared(path, number):
    """The event that an object has come."""
    data = blobmsg.encode({"id": pyubus.Typed(pyubus.INT32, number), "path": path})
    values = [
        (message.ATTR_OBJID, 7000),
        (message.ATTR_METHOD, "ubus.object.add"),
        (message.ATTR_DATA, data),
    ]
    return message.pack(message.INVOKE, 1, 0, values)


def test_a_subscriber_asks_for_its_object_alone_and_once():
    """ubusd would send each notification as often as it was asked to."""
    bench = Bench()
    bench.bus.subscribe("news", lambda kind, data: None)
    bench.connect()
    bench.register(7000)
    lookup = [seq for kind, seq, _, _ in bench.sent() if kind == message.LOOKUP]
    bench.bus.receive(appeared("other", 8001))
    assert bench.sent() == []
    bench.bus.receive(appeared("news", 0xFFFF8000))
    bench.answer(lookup[0], [(message.ATTR_OBJID, 0xFFFF8000)])
    asked = [(kind, found[message.ATTR_TARGET]) for kind, _, _, found in bench.sent()]
    assert asked == [(message.SUBSCRIBE, 0xFFFF8000)]


def test_a_call_is_answered_once():
    bench = Bench()
    requests = []
    bench.bus.add_object("name", [pyubus.Method("take", requests.append, ())])
    bench.connect()
    bench.register(7000)
    values = [(message.ATTR_OBJID, 7000), (message.ATTR_METHOD, "take"), (message.ATTR_DATA, b"")]
    bench.bus.receive(message.pack(message.INVOKE, 3, 4000, values))
    assert [one[:3] for one in bench.sent()] == [(message.STATUS, 3, 4000)]
    requests[0].reply({"second": "answer"})
    assert bench.sent() == []


def test_an_answer_to_a_caller_of_before_a_restart_is_not_sent():
    bench = Bench()
    requests = []

    def later(request):
        requests.append(request)
        return pyubus.DEFERRED

    bench.bus.add_object("name", [pyubus.Method("later", later, ())])
    bench.connect()
    bench.register(7000)
    values = [(message.ATTR_OBJID, 7000), (message.ATTR_METHOD, "later"), (message.ATTR_DATA, b"")]
    bench.bus.receive(message.pack(message.INVOKE, 3, 4000, values))
    bench.bus.lost()
    bench.connect()
    bench.register(7000)
    requests[0].reply({"late": True})
    assert bench.sent() == []


def test_ubusd_that_does_not_answer_a_registration_is_given_up():
    """The object may be there, and we would be refused our own name for ever."""
    bench = Bench()
    bench.bus.add_object("name", [])
    bench.connect()
    bench.pass_time(10000)
    assert bench.bus.broken


def test_who_says_no_hello_is_given_up():
    bench = Bench()
    bench.bus.connected()
    assert bench.bus.timer() == 11000
    bench.pass_time(10000)
    assert bench.bus.broken


def test_what_is_not_ubus_costs_the_connection_and_says_why():
    for octets in (b"HTTP/1.1 400 Bad Request\r\n", b"\0" * 12, b"\0\2\0\0" + b"\xff" * 8):
        bench = Bench()
        bench.bus.connected()
        bench.bus.receive(octets)
        assert bench.bus.broken
    bench = Bench()
    bench.bus.connected()
    bench.bus.receive(message.pack(message.STATUS, 0, 0, ()))
    assert bench.bus.broken == "ubusd has not said hello"


def test_output_that_nobody_takes_is_bounded():
    bench = Bench()
    bench.connect()
    answers = []
    for _ in range(20):
        bench.bus.send_event("event", {"fill": "x" * 200000}, answers.append)
    assert answers == [pyubus.NO_MEMORY] * 15
    bench.bus.lost()
    assert answers[15:] == [pyubus.CONNECTION_FAILED] * 5


def test_what_cannot_be_said_is_refused():
    endless = []
    endless.append(endless)
    values = [object(), 1 << 64, "a\0b", {5: 1}, {"a\0": 1}, endless, "x" * (1 << 20)]
    values += [pyubus.Typed(pyubus.INT8, 256), pyubus.Typed(pyubus.STRING, 5)]
    values += [pyubus.Typed(pyubus.INT32, 1.5), pyubus.Typed(pyubus.TABLE, []), {"x" * 65536: 1}]
    values += [pyubus.Typed(99, 1)]
    for value in values:
        try:
            blobmsg.encode({"value": value})
            raise AssertionError(value)
        except pyubus.UbusError as error:
            assert error.status == pyubus.INVALID_ARGUMENT


def test_too_many_and_too_deep_values_are_refused():
    many = blobmsg.encode({"value": [None] * 8192})
    deep = b""
    for _ in range(200):
        deep = blobmsg.field(blobmsg.ARRAY, "", deep)
    for octets in (many, deep):
        try:
            blobmsg.decode(octets)
            raise AssertionError("was read")
        except pyubus.UbusError as error:
            assert error.status == pyubus.PARSE_ERROR


def test_deep_values_within_the_limit_pass():
    value = None
    for _ in range(blobmsg.MAX_DEPTH):
        value = [value]
    assert blobmsg.decode(blobmsg.encode({"value": value}))["value"] == value


def test_of_fields_with_one_name_the_first_counts():
    octets = blobmsg.encode({"a": 1}) + blobmsg.encode({"a": 2})
    assert blobmsg.decode(octets)["a"] == 1


class NoPoller:
    def add(self, sock, handler):
        raise AssertionError("connected")


def test_an_absent_ubusd_is_looked_for_ever_more_rarely_and_told_once():
    time = [0]
    troubles = []
    one = connection.Connection(NoPoller(), lambda: time[0], "/no/such", troubles.append)
    one.open()
    waits = []
    for _ in range(8):
        waits.append(one.timer() - time[0])
        time[0] = one.timer()
        one.handle_timer(time[0])
    assert waits == [250, 500, 1000, 2000, 4000, 5000, 5000, 5000]
    assert len(troubles) == 1
    assert "/no/such" in troubles[0]
    one.close()
    assert one.timer() is None
