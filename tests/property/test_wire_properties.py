"""Laws of the codec for any values and any octets."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpe_agent.pcp import wire

OCTETS = st.binary(min_size=16, max_size=16)
MAPS = st.builds(
    wire.MapData,
    st.binary(min_size=12, max_size=12),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.integers(0, 65535),
    OCTETS,
)
U32 = st.integers(0, 2**32 - 1)
OPTIONS = st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40)), max_size=8)


def built(options):
    return b"".join(wire.option(code, data) for code, data in options)


@given(OCTETS, U32, MAPS, OPTIONS)
def test_a_request_comes_back_as_it_was_built(client_ip, lifetime, data, options):
    octets = wire.map_request(client_ip, lifetime, data, built(options))
    parsed = wire.parse_request(octets)
    assert parsed == wire.Request(wire.OP_MAP, lifetime, client_ip, data, options)
    assert octets[0] == 2 and octets[1] == 1 and octets[2:4] == b"\0\0" and len(octets) % 4 == 0


@given(U32, U32, MAPS, OPTIONS)
def test_a_grant_comes_back_as_it_was_built(lifetime, epoch, data, options):
    octets = wire.map_response(0, lifetime, epoch, data, built(options))
    parsed = wire.parse_response(octets)
    assert parsed == wire.Response(2, wire.OP_MAP, 0, lifetime, epoch, data, options)


@given(st.integers(2, 255), U32, U32, MAPS, OPTIONS)
def test_an_error_keeps_everything_but_its_options(result, lifetime, epoch, data, options):
    parsed = wire.parse_response(wire.map_response(result, lifetime, epoch, data, built(options)))
    assert parsed == wire.Response(2, wire.OP_MAP, result, lifetime, epoch, data, [])


@given(st.integers(1, 65535), st.integers(0, 65535), st.booleans())
def test_a_port_set_comes_back_as_it_was_built(size, first, parity):
    octets = wire.port_set_option(size, first, parity)
    assert octets == struct.pack(">BBHHHB3x", 130, 0, 5, size, first, parity)
    ((code, data),) = wire.parse_options(octets, 0)
    assert code == 130 and wire.parse_port_set(data) == wire.PortSetOption(size, first, parity)


@given(OCTETS, st.integers(0, 128), st.integers(0, 65535), OCTETS)
def test_the_options_of_an_admin_s_mapping_come_back_as_they_were_built(host, length, port, peer):
    octets = wire.third_party_option(host) + wire.filter_option(length, port, peer)
    assert wire.parse_options(octets + wire.prefer_failure_option(), 0) == [
        (1, host),
        (3, struct.pack(">xBH16s", length, port, peer)),
        (2, b""),
    ]


def plausible():
    """Octets that get past the first checks more often than chance would let them."""
    head = st.builds(
        lambda version, opcode, two, result: bytes((version, opcode, two, result)),
        st.sampled_from((2, 2, 2, 0, 3)),
        st.sampled_from((0x80, 0x81, 0x81, 0x82, 0x01)),
        st.integers(0, 255),
        st.sampled_from((0, 0, 0, 1, 2, 10)),
    )
    fields = st.binary(min_size=20, max_size=20), st.binary(max_size=36)
    tail = st.one_of(
        OPTIONS.map(built),
        st.binary(max_size=60),
        st.builds(
            lambda code, length, data: struct.pack(">BxH", code, length) + data,
            st.integers(0, 255),
            st.integers(0, 65535),
            st.binary(max_size=30),
        ),
    )
    return st.tuples(head, *fields, tail).map(b"".join)


@given(st.one_of(st.binary(max_size=1200), plausible()))
def test_any_octets_are_parsed_or_refused_in_the_codec_s_own_words(octets):
    for parse in (wire.parse_response, wire.parse_request):
        try:
            parsed = parse(octets)
        except wire.WireError as error:
            assert str(error)
            continue
        assert parsed.opcode & 0x7F == octets[1] & 0x7F
        total = sum(4 + len(data) for _, data in parsed.options)
        assert total <= len(octets)
    if len(octets) > 1100 and (len(octets) < 4 or octets[3] != wire.UNSUPP_VERSION):
        with pytest.raises(wire.WireError):
            wire.parse_response(octets)


@given(st.binary(max_size=200), st.integers(0, 220))
def test_options_are_read_to_the_very_end_or_refused(octets, offset):
    try:
        options = wire.parse_options(octets, offset)
    except wire.OptionError:
        return
    if offset >= len(octets):
        assert options == []
        return
    rebuilt = built(options)
    # Reserved octets, padding, and padding missing at the end are all that may differ.
    assert 0 <= len(rebuilt) - (len(octets) - offset) <= 3
    assert [code for code, _ in wire.parse_options(rebuilt, 0)] == [code for code, _ in options]


@given(st.binary(max_size=12))
def test_a_port_set_is_five_octets_with_at_least_one_port(octets):
    if len(octets) == 5 and octets[:2] != b"\0\0":
        parsed = wire.parse_port_set(octets)
        assert parsed.size == int.from_bytes(octets[:2], "big")
        assert parsed.first_internal == int.from_bytes(octets[2:4], "big")
    else:
        with pytest.raises(wire.OptionError):
            wire.parse_port_set(octets)
