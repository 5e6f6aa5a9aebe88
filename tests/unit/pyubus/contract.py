"""What a client of ubus can rely on: for CPython and MicroPython, against any ubusd.

Each function is a test of its own; World gives it clients and, by the program that has started it,
a ubusd that can be stopped and started.
"""

import os
import sys

from cpe_agent import pyubus
from cpe_agent.pyubus import DEFERRED, Method, UbusError
from cpe_agent.pyubus.blocking import Ubus

PATIENCE = 30000  # ms; only a failure takes that long


class World:
    """Clients of one ubusd, all served while any of them waits."""

    def __init__(self, path):
        self.path = path
        self.clients = []

    def client(self, **options):
        client = Ubus(self.path, **options)
        self.clients.append(client)
        return client

    def ask(self, command):
        """Have the program that started us do something."""
        print("@" + command)
        if hasattr(sys.stdout, "flush"):
            sys.stdout.flush()
        return sys.stdin.readline().strip()

    def until(self, condition):
        left = PATIENCE
        while not condition():
            assert left > 0, "it did not come to that"
            for client in self.clients:
                client.wait(2)
                left -= 2

    def offer(self, client, path, methods, on_subscribers=None):
        node = client.bus.add_object(path, methods, on_subscribers)
        self.until(lambda: node.id is not None)
        return node

    def subscribe(self, client, path, callback, on_active=None):
        node = client.bus.subscribe(path, callback, on_active)
        self.until(lambda: node.active)
        return node

    def listen(self, client, pattern, callback):
        node = client.bus.listen(pattern, callback)
        self.until(lambda: node.status == pyubus.OK)
        self.settle(client)
        return node

    def settle(self, client):
        """What the client has sent until now is handled by ubusd."""
        done = []
        client.bus.lookup("no.such.object", lambda *_: done.append(1))
        self.until(lambda: done)

    def call(self, client, path, method, arguments=None, timeout=PATIENCE):
        done = []
        client.bus.call(path, method, arguments, lambda *answer: done.append(answer), timeout)
        self.until(lambda: done)
        return plain(done[0])


def plain(value):
    """The value with dicts in it for ordered ones: on MicroPython they are not equal."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([plain(one) for one in value])
    return value


def echo(request):
    return request.arguments


ECHO = [Method("echo", echo, (("value", None),))]


def status_of(function, *arguments):
    try:
        function(*arguments)
    except UbusError as error:
        return error.status
    return pyubus.OK


# Looking up


def test_an_object_that_is_not_there_is_not_found(world):
    client = world.client()
    assert status_of(client.lookup, "no.such.object") == pyubus.NOT_FOUND
    assert status_of(client.lookup, "no.such*") == pyubus.NOT_FOUND
    assert status_of(client.call, "no.such.object", "x") == pyubus.NOT_FOUND


def test_signatures_are_shown_with_types_and_in_order(world):
    types = (
        ("an_int8", pyubus.INT8),
        ("an_int16", pyubus.INT16),
        ("an_int32", pyubus.INT32),
        ("an_int64", pyubus.INT64),
        ("a_double", pyubus.DOUBLE),
        ("a_string", pyubus.STRING),
        ("an_array", pyubus.ARRAY),
        ("a_table", pyubus.TABLE),
        ("anything", None),
    )
    methods = [Method("zeta", echo, types), Method("alpha", echo, ()), Method("mid", echo, ())]
    node = world.offer(world.client(), "test.signature", methods)
    found = world.client().lookup("test.signature")
    assert len(found) == 1
    assert found[0].path == "test.signature"
    assert found[0].id == node.id
    assert list(found[0].methods) == ["zeta", "alpha", "mid"]
    assert list(found[0].methods["zeta"]) == [name for name, _ in types]
    assert plain(found[0].methods["zeta"]) == {name: kind or 0 for name, kind in types}
    assert plain(found[0].methods["alpha"]) == {}


def test_patterns_find_what_begins_so(world):
    owner = world.client()
    for path in ("test.one", "test.two", "testament", "other"):
        world.offer(owner, path, [])

    def paths(pattern):
        return [info.path for info in world.client().lookup(pattern)]

    assert sorted(paths("test.*")) == ["test.one", "test.two"]
    assert sorted(paths("test*")) == ["test.one", "test.two", "testament"]
    assert paths("test.two") == ["test.two"]
    assert sorted([path for path in paths(None) if path[:4] in ("test", "othe")]) == [
        "other",
        "test.one",
        "test.two",
        "testament",
    ]


def test_many_objects_are_all_found(world):
    owner = world.client()
    nodes = [owner.bus.add_object("many.%03d" % number, ECHO) for number in range(100)]
    world.until(lambda: all(node.id for node in nodes))
    assert [info.path for info in world.client().lookup("many.*")] == [
        "many.%03d" % number for number in range(100)
    ]


# Calling


def test_values_of_every_type_come_back(world):
    world.offer(world.client(), "test.echo", ECHO)
    client = world.client()
    values = [
        None,
        True,
        False,
        0,
        -1,
        2**31 - 1,
        -(2**31),
        2**31,
        2**63 - 1,
        -(2**63),
        1.5,
        -0.25,
        "",
        "text",
        "\u00e4\u20ac\U0001f600",
        [],
        [1, "two", None, [3.0], {"four": True}],
        {},
        {"table": {"in": {"a": [{"table": 1}]}}},
        b"\x00\xff",
        "x" * 1000,
    ]
    for value in values:
        status, data = world.call(client, "test.echo", "echo", {"value": value})
        assert status == pyubus.OK, (value, status)
        assert data == {"value": value}, (value, data)
    typed = {
        "value": [
            pyubus.Typed(pyubus.INT16, -5),
            pyubus.Typed(pyubus.INT64, 7),
            pyubus.Typed(pyubus.INT8, 77),
            pyubus.Typed(pyubus.INT32, 0xFFFFFFFF),
        ]
    }
    assert world.call(client, "test.echo", "echo", typed) == (0, {"value": [-5, 7, 77, -1]})


def test_the_order_of_a_table_is_kept(world):
    from collections import OrderedDict

    world.offer(world.client(), "test.echo", ECHO)
    names = ["z", "a", "m", "b", "y"]
    value = OrderedDict([(name, name) for name in names])
    answers = []
    client = world.client()
    client.bus.call(
        "test.echo", "echo", {"value": value}, lambda status, data: answers.append(data)
    )
    world.until(lambda: answers)
    assert list(answers[0]["value"]) == names


def test_a_method_without_data_gives_an_empty_table(world):
    world.offer(world.client(), "test.quiet", [Method("quiet", lambda request: None, ())])
    assert world.call(world.client(), "test.quiet", "quiet") == (pyubus.OK, {})


def test_arguments_are_checked_before_the_handler_sees_them(world):
    seen = []

    def handler(request):
        seen.append(plain(request.arguments))

    declared = (
        ("number", pyubus.INT32),
        ("flag", pyubus.BOOL),
        ("name", pyubus.STRING),
        ("big", pyubus.INT64),
        ("share", pyubus.DOUBLE),
        ("any", None),
    )
    world.offer(world.client(), "test.typed", [Method("take", handler, declared)])
    client = world.client()
    good = [
        {},
        {"number": 5, "flag": True, "name": "x", "big": 2**40, "share": 0.5, "any": [1]},
        {"big": 5, "share": 2, "any": "x"},
        {"any": None},
    ]
    for arguments in good:
        assert world.call(client, "test.typed", "take", arguments) == (pyubus.OK, {})
        assert seen.pop() == arguments
    bad = [
        {"numbre": 5},
        {"number": "5"},
        {"number": 2**40},
        {"number": True},
        {"flag": 1},
        {"name": 5},
        {"name": None},
        {"big": "x"},
        {"share": "x"},
        {"number": 5, "other": 1},
    ]
    for arguments in bad:
        status, data = world.call(client, "test.typed", "take", arguments)
        assert (status, data) == (pyubus.INVALID_ARGUMENT, None), (arguments, status)
    assert seen == []


def test_the_session_that_uhttpd_adds_is_no_unknown_argument(world):
    world.offer(world.client(), "test.echo", ECHO)
    status, data = world.call(
        world.client(), "test.echo", "echo", {"value": 1, "ubus_rpc_session": "0" * 32}
    )
    assert (status, data) == (pyubus.OK, {"value": 1})


def test_a_method_that_is_not_there_is_said_so(world):
    world.offer(world.client(), "test.echo", ECHO)
    status, data = world.call(world.client(), "test.echo", "ohce", {"value": 1})
    assert (status, data) == (pyubus.METHOD_NOT_FOUND, None)


def test_a_handler_can_refuse(world):
    def refuse(request):
        raise UbusError(request.arguments["with"])

    methods = [Method("refuse", refuse, (("with", pyubus.INT32),))]
    world.offer(world.client(), "test.refuse", methods)
    client = world.client()
    for status in (pyubus.NOT_SUPPORTED, pyubus.NO_DATA, pyubus.SYSTEM_ERROR):
        answer = world.call(client, "test.refuse", "refuse", {"with": status})
        assert answer == (status, None)


def test_a_broken_handler_costs_its_caller_an_answer_and_nobody_else_anything(world):
    def broken(request):
        return {}["missing"]

    def unsayable(request):
        return {"what": object()}

    methods = ECHO + [Method("broken", broken, ()), Method("unsayable", unsayable, ())]
    world.offer(world.client(), "test.broken", methods)
    client = world.client()
    for method in ("broken", "unsayable"):
        assert world.call(client, "test.broken", method) == (pyubus.UNKNOWN_ERROR, None)
        answer = world.call(client, "test.broken", "echo", {"value": 1})
        assert answer == (pyubus.OK, {"value": 1})


def test_replies_can_wait_and_come_in_any_order(world):
    waiting = []
    answers = []

    def later(request):
        waiting.append(request)
        return DEFERRED

    world.offer(world.client(), "test.later", [Method("later", later, (("n", pyubus.INT32),))])
    client = world.client()
    for number in range(3):
        client.bus.call("test.later", "later", {"n": number}, lambda *one: answers.append(one))
    world.until(lambda: len(waiting) == 3)
    assert answers == []
    waiting[2].reply({"n": 2})
    world.until(lambda: len(answers) == 1)
    waiting[0].reply(None, pyubus.NOT_FOUND)
    waiting[0].reply({"second": "answer"})
    world.until(lambda: len(answers) == 2)
    waiting[1].reply()
    world.until(lambda: len(answers) == 3)
    world.settle(client)
    expected = [(pyubus.OK, {"n": 2}), (pyubus.NOT_FOUND, None), (pyubus.OK, {})]
    assert plain(answers) == expected


def test_a_call_that_is_not_answered_times_out_and_its_late_answer_is_nobody_elses(world):
    waiting = []

    def silent(request):
        waiting.append(request)
        return DEFERRED

    world.offer(world.client(), "test.silent", ECHO + [Method("silent", silent, ())])
    client = world.client()
    assert world.call(client, "test.silent", "silent", {}, 50) == (pyubus.TIMEOUT, None)
    waiting[0].reply({"late": True})
    answer = world.call(client, "test.silent", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})


def test_the_caller_is_named(world):
    names = []
    methods = [Method("who", lambda request: names.append((request.user, request.group)), ())]
    world.offer(world.client(), "test.who", methods)
    assert world.call(world.client(), "test.who", "who")[0] == pyubus.OK
    assert names == [tuple(world.ask("whoami").split())]


def test_a_client_can_call_itself(world):
    client = world.client()
    world.offer(client, "test.self", ECHO)
    assert world.call(client, "test.self", "echo", {"value": 1}) == (pyubus.OK, {"value": 1})


def test_many_calls_at_once_are_all_answered(world):
    world.offer(world.client(), "test.echo", ECHO)
    client = world.client()
    answers = []
    for number in range(100):
        client.bus.call(
            "test.echo", "echo", {"value": number}, lambda *answer: answers.append(answer)
        )
    world.until(lambda: len(answers) == 100)
    assert plain(answers) == [(pyubus.OK, {"value": number}) for number in range(100)]


def test_more_calls_than_can_be_remembered_fail_at_once(world):
    client = world.client()
    answers = []
    for _ in range(200):
        client.bus.call("no.such.object", "x", {}, lambda *answer: answers.append(answer))
    at_once = len(answers)
    assert at_once == 200 - 128
    assert answers == [(pyubus.NO_MEMORY, None)] * at_once
    world.until(lambda: len(answers) == 200)
    assert answers[at_once:] == [(pyubus.NOT_FOUND, None)] * 128


# Sizes


def test_long_messages_pass(world):
    world.offer(world.client(), "test.echo", ECHO)
    value = "0123456789abcdef" * 50000  # 800 kB
    status, data = world.call(world.client(), "test.echo", "echo", {"value": value})
    assert status == pyubus.OK
    assert data["value"] == value


def test_longer_than_ubusd_takes_is_refused_here_and_costs_nothing(world):
    world.offer(world.client(), "test.echo", ECHO)
    client = world.client()
    value = "x" * (1 << 20)
    status = world.call(client, "test.echo", "echo", {"value": value})
    assert status == (pyubus.INVALID_ARGUMENT, None)
    answer = world.call(client, "test.echo", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})


def test_an_answer_that_is_too_long_for_us_fails_alone(world):
    long = Method("long", lambda request: {"long": "x" * 100000}, ())
    world.offer(world.client(), "test.long", ECHO + [long])
    client = world.client(max_message=65536)
    assert world.call(client, "test.long", "long") == (pyubus.NO_MEMORY, None)
    answer = world.call(client, "test.long", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})


def test_strings_that_are_no_utf8_are_read(world):
    seen = []

    def see(request):
        seen.append(request.arguments["value"])
        return request.arguments

    world.offer(world.client(), "test.see", [Method("see", see, (("value", pyubus.STRING),))])
    world.ask("latin1 test.see see value")
    world.until(lambda: seen)
    world.settle(world.clients[0])
    assert seen == ["caf\ufffd"]
    assert world.ask("answer") == "0 636166efbfbd00"


# Objects that come and go


def test_a_name_can_be_taken_only_once(world):
    first = world.offer(world.client(), "test.name", ECHO)
    second = world.client().bus.add_object("test.name", ECHO)
    world.until(lambda: second.status == pyubus.INVALID_ARGUMENT)
    assert second.id is None
    assert world.client().lookup("test.name")[0].id == first.id


def test_a_removed_object_is_gone_and_its_neighbours_are_not(world):
    owner = world.client()
    gone = world.offer(owner, "test.gone", ECHO)
    world.offer(owner, "test.stays", ECHO)
    owner.bus.remove(gone)
    owner.bus.remove(gone)
    assert gone.id is None
    world.settle(owner)
    client = world.client()
    assert status_of(client.lookup, "test.gone") == pyubus.NOT_FOUND
    answer = world.call(client, "test.stays", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})
    world.offer(owner, "test.gone", ECHO)
    answer = world.call(client, "test.gone", "echo", {"value": 2})
    assert answer == (pyubus.OK, {"value": 2})


def test_an_object_removed_before_it_was_registered_does_not_stay(world):
    owner = world.client()
    owner.bus.remove(owner.bus.add_object("test.brief", ECHO))
    world.settle(owner)
    world.settle(owner)
    assert status_of(world.client().lookup, "test.brief") == pyubus.NOT_FOUND


def test_a_closed_client_takes_its_objects_along(world):
    owner = world.client()
    world.offer(owner, "test.closed", ECHO)
    client = world.client()
    heard = []
    world.listen(client, "ubus.object.*", lambda event, data: heard.append((event, data["path"])))
    owner.close()
    world.until(lambda: heard)
    assert heard == [("ubus.object.remove", "test.closed")]
    assert status_of(client.lookup, "test.closed") == pyubus.NOT_FOUND


# Notifications


def test_notifications_reach_every_subscriber_and_nobody_else(world):
    publisher = world.client()
    changes = []
    node = world.offer(publisher, "test.news", [], changes.append)
    other = world.offer(publisher, "test.other", [])
    heard = []
    first, second = world.client(), world.client()
    subscriptions = [
        world.subscribe(client, "test.news", lambda kind, data: heard.append((kind, plain(data))))
        for client in (first, second)
    ]
    world.until(lambda: node.has_subscribers)
    assert publisher.bus.notify(other, "wrong", {})
    assert publisher.bus.notify(node, "right", {"a": 1})
    world.until(lambda: len(heard) == 2)
    assert heard == [("right", {"a": 1})] * 2
    assert not other.has_subscribers
    first.bus.remove(subscriptions[0])
    world.settle(first)
    assert publisher.bus.notify(node, "again")
    world.until(lambda: len(heard) == 3)
    second.bus.remove(subscriptions[1])
    world.until(lambda: not node.has_subscribers)
    assert heard[2:] == [("again", {})]
    assert changes == [True, False]


def test_a_subscriber_waits_for_its_object_and_follows_it(world):
    client, publisher = world.client(), world.client()
    heard = []
    active = []
    client.bus.subscribe("test.news", lambda kind, data: heard.append(kind), active.append)
    world.settle(client)
    assert active == []
    for turn in ("first", "second"):
        node = world.offer(publisher, "test.news", [])
        world.until(lambda: active[-1:] == [True])
        publisher.bus.notify(node, turn)
        world.until(lambda turn=turn: heard[-1:] == [turn])
        publisher.bus.remove(node)
        world.until(lambda: active[-1:] == [False])
    assert heard == ["first", "second"]
    assert active == [True, False, True, False]


def test_each_notification_comes_once(world):
    """Also where the object appears while we are looking for it."""
    client, publisher = world.client(), world.client()
    heard = []
    node = publisher.bus.add_object("test.news", [])
    client.bus.subscribe("test.news", lambda kind, data: heard.append(kind))
    world.until(lambda: node.has_subscribers)
    world.settle(client)
    for kind in ("one", "two"):
        publisher.bus.notify(node, kind)
    world.until(lambda: "two" in heard)
    world.settle(client)
    assert heard == ["one", "two"]


def test_a_subscriber_that_fails_hears_on(world):
    publisher, client = world.client(), world.client()
    node = world.offer(publisher, "test.news", [])
    heard = []

    def fails(kind, data):
        heard.append(kind)
        raise ValueError(kind)

    world.subscribe(client, "test.news", fails)
    for kind in ("one", "two"):
        publisher.bus.notify(node, kind)
    world.until(lambda: heard == ["one", "two"])


def test_a_notification_cannot_be_sent_without_an_object(world):
    publisher = world.client()
    node = world.offer(publisher, "test.news", [])
    publisher.bus.remove(node)
    assert publisher.bus.notify(node, "one") is False


# Events


def test_events_come_by_pattern_and_not_to_their_sender(world):
    sender, client = world.client(), world.client()
    heard = []
    own = []
    for pattern in ("exact", "begins.*"):
        world.listen(client, pattern, lambda event, data: heard.append((event, plain(data))))
    world.listen(sender, "exact", lambda event, data: own.append(event))
    for event in ("exact", "exactly", "exac", "begins", "begins.", "begins.so", "last"):
        sender.send_event(event, {"name": event})
    world.listen(client, "end", lambda event, data: heard.append(event))
    sender.send_event("end")
    world.until(lambda: "end" in heard)
    events = [one[0] for one in heard[:-1]]
    assert events == ["exact", "begins.", "begins.so"]
    assert heard[0][1] == {"name": "exact"}
    assert own == []


def test_a_listener_can_be_removed(world):
    sender, client = world.client(), world.client()
    heard = []
    gone = world.listen(client, "*", lambda event, data: heard.append(("gone", event)))
    world.listen(client, "e*", lambda event, data: heard.append(("stays", event)))
    client.bus.remove(gone)
    world.settle(client)
    sender.send_event("event")
    world.until(lambda: heard)
    assert heard == [("stays", "event")]


def test_objects_that_come_are_events(world):
    client = world.client()
    heard = []
    world.listen(client, "ubus.object.add", lambda event, data: heard.append(data))
    node = world.offer(world.client(), "test.new", ECHO)
    world.until(lambda: heard)
    assert heard[0]["path"] == "test.new"
    assert heard[0]["id"] & 0xFFFFFFFF == node.id


def test_ubusds_own_events_cannot_be_forged(world):
    status = status_of(world.client().send_event, "ubus.object.add", {"path": "x"})
    assert status == pyubus.PERMISSION_DENIED


def test_a_burst_of_events_comes_whole_and_in_order(world):
    sender, client = world.client(), world.client()
    heard = []
    world.listen(client, "burst", lambda event, data: heard.append(data["n"]))
    done = []
    for number in range(100):
        sender.bus.send_event("burst", {"n": number, "fill": "x" * 2000}, done.append)
    world.until(lambda: len(heard) == 100 and len(done) == 100)
    assert heard == list(range(100))
    assert done == [pyubus.OK] * 100


# ubusd that comes and goes


def test_everything_is_there_again_after_ubusd_has_restarted(world):
    publisher, client = world.client(), world.client()
    node = world.offer(publisher, "test.news", ECHO)
    old = node.id
    news = []
    events = []
    active = []
    world.subscribe(client, "test.news", lambda kind, data: news.append(kind), active.append)
    world.listen(client, "event", lambda event, data: events.append(event))
    world.until(lambda: node.has_subscribers)
    world.ask("restart")
    world.until(lambda: not node.has_subscribers and active == [True, False])
    world.until(lambda: node.has_subscribers and active == [True, False, True])
    assert node.id != old
    answer = world.call(client, "test.news", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})
    publisher.bus.notify(node, "news")
    world.settle(client)
    publisher.send_event("event")
    world.until(lambda: news and events)
    assert (news, events) == (["news"], ["event"])


def test_calls_that_are_open_fail_when_ubusd_goes(world):
    waiting = []

    def silent(request):
        waiting.append(request)
        return DEFERRED

    owner = world.client()
    node = world.offer(owner, "test.silent", ECHO + [Method("silent", silent, ())])
    client = world.client()
    answers = []
    client.bus.call("test.silent", "silent", {}, lambda *answer: answers.append(answer))
    world.until(lambda: waiting)
    world.ask("stop")
    world.until(lambda: answers)
    assert answers == [(pyubus.CONNECTION_FAILED, None)]
    world.until(lambda: node.id is None)
    client.bus.call("test.silent", "echo", {}, lambda *answer: answers.append(answer))
    assert answers[1:] == [(pyubus.CONNECTION_FAILED, None)]
    world.ask("start")
    world.until(lambda: node.id is not None and client.bus.up)
    waiting[0].reply({"from": "before"})
    answer = world.call(client, "test.silent", "echo", {"value": 1})
    assert answer == (pyubus.OK, {"value": 1})


def test_without_ubusd_a_script_is_told_at_once(world):
    world.ask("stop")
    try:
        world.client()
        raise AssertionError("connected to nobody")
    except UbusError as error:
        assert error.status == pyubus.CONNECTION_FAILED
        assert world.path in str(error)


# What others may do to us


def open_files():
    return len(list(os.listdir("/proc/self/fd")))


def test_file_descriptors_that_are_passed_are_not_kept(world):
    calls = []
    client = world.client()
    world.offer(client, "test.fd", [Method("take", calls.append, ())])
    before = open_files()
    for count in range(1, 20):
        world.ask("pass-fd test.fd take")
        world.until(lambda count=count: len(calls) == count)
        world.settle(client)
        assert world.ask("answer") == "0"
    assert open_files() == before


def test_who_may_do_nothing_is_told_so(world):
    """Run as a user for whom there is no ACL."""
    client = world.client()
    assert client.bus.up
    assert world.call(client, "test.root", "echo") == (pyubus.PERMISSION_DENIED, None)
    node = client.bus.add_object("test.denied", ECHO)
    world.until(lambda: node.status == pyubus.INVALID_ARGUMENT)
    listener = client.bus.listen("event", lambda event, data: None)
    world.until(lambda: listener.status == pyubus.PERMISSION_DENIED)
    assert status_of(client.send_event, "event") == pyubus.PERMISSION_DENIED
