"""Laws of the codec and of the framer for any values and any octets."""

import os

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpe_agent import pyubus
from cpe_agent.pyubus import blobmsg, message
from cpe_agent.pyubus.bus import Bus
from tests.unit.pyubus import standin

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=200)
settings.register_profile("explore", deadline=None, max_examples=3000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary(min_size=1, max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
TABLES = st.dictionaries(TEXT, VALUES, max_size=6)


@given(TABLES)
def test_what_is_written_is_read(table):
    octets = blobmsg.encode(table)
    assert blobmsg.decode(octets) == table
    assert list(blobmsg.decode(octets)) == list(table)
    assert len(octets) % 4 == 0


@given(TABLES)
def test_another_codec_finds_the_same_fields(table):
    found = [name.decode() for _, name, _ in standin.fields(blobmsg.encode(table))]
    assert found == list(table)


def damaged(data, octets):
    """octets with some of them changed, or cut off."""
    octets = bytearray(octets)
    for _ in range(data.draw(st.integers(0, 3))):
        if octets:
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    return bytes(octets[: data.draw(st.integers(0, len(octets)))])


def reads(function, *arguments):
    try:
        function(*arguments)
    except pyubus.UbusError as error:
        assert error.status in (pyubus.PARSE_ERROR, pyubus.INVALID_ARGUMENT)


@given(st.binary(max_size=200))
@example(b"\x80\0\0\4")
@example(b"\x80\0\0\6\xff\xff\0\0")
def test_any_octets_are_read_or_refused(octets):
    reads(blobmsg.decode, octets)
    reads(blobmsg.decode_arguments, octets, {"a": blobmsg.DOUBLE})
    reads(message.attributes, octets)


@given(st.data(), TABLES)
def test_damaged_octets_are_read_or_refused(data, table):
    octets = damaged(data, blobmsg.encode(table))
    reads(blobmsg.decode, octets)
    reads(blobmsg.decode_arguments, octets, dict.fromkeys(table, blobmsg.INT64))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=60)), max_size=5), st.data())
def test_a_stream_gives_the_same_messages_however_it_is_cut(bodies, data):
    messages = [
        message.pack(kind, seq, 7, [(message.ATTR_DATA, body)])
        for seq, (kind, body) in enumerate(bodies)
    ]
    stream = b"".join(messages)
    framer = message.Framer(1 << 20)
    found = []
    while stream:
        count = data.draw(st.integers(1, len(stream)))
        framer.feed(stream[:count])
        stream = stream[count:]
        one = framer.next()
        while one:
            found.append((one.type, one.seq, message.attributes(one.body)[message.ATTR_DATA]))
            one = framer.next()
    assert found == [(kind, seq, body) for seq, (kind, body) in enumerate(bodies)]


BODIES = st.lists(
    st.tuples(
        st.integers(0, 14),
        st.binary(max_size=12) | st.integers(0, 3).map(lambda n: bytes([0, 0, 0, n])),
    ),
    max_size=5,
)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6), st.integers(0, 3), BODIES)))
def test_no_message_of_ubusds_raises_or_leaves_a_question_open_for_ever(messages):
    answers = []
    time = [0]
    bus = Bus(lambda: time[0])
    bus.add_object("object", [pyubus.Method("m", lambda request: None, ())])
    bus.listen("event*", lambda event, data: None)
    bus.subscribe("other", lambda kind, data: None)
    bus.connected()
    bus.receive(message.pack(message.HELLO, 0, 5, ()))
    bus.call("path", "method", {}, lambda *answer: answers.append(answer))
    bus.lookup(None, lambda *answer: answers.append(answer))
    for kind, seq, peer, attributes in messages:
        body = b"".join(blobmsg.attribute(number, payload) for number, payload in attributes)
        head = bytes([0, kind, 0, seq, 0, 0, 0, peer]) + (4 + len(body)).to_bytes(4, "big")
        bus.receive(head + body)
    time[0] = 40000
    bus.handle_timer(time[0])
    bus.lost()
    assert len(answers) == 2
    assert bus.timer() is None


@given(st.binary(max_size=300))
def test_any_stream_costs_at_most_the_connection(stream):
    bus = Bus(lambda: 0)
    bus.connected()
    bus.receive(message.pack(message.HELLO, 0, 5, ()))
    bus.receive(stream)
    assert bus.broken is None or "ubus" in bus.broken
