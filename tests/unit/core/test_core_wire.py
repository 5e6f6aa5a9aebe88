"""What is on the wire, octet by octet (RFC 6887 7, 11.1; RFC 7753 4)."""

from cpe_agent import portset
from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import NONCE, SOURCE


def refused(function, *arguments):
    """Why the function refused, or None."""
    try:
        function(*arguments)
    except ValueError as error:
        return str(error) or "refused"
    return None


def data(protocol, internal, external=0, address=None):
    octets = wire.V4_PREFIX + portset.octets(address) if address else wire.ANY_V4
    return wire.MapData(NONCE, protocol, internal, external, octets)


def response(**change):
    """E2 with some octets replaced: at_<offset>=value."""
    octets = bytearray(vectors.E2)
    for name in change:
        octets[int(name[3:])] = change[name]
    return bytes(octets)


def test_requests_are_built_as_in_the_worked_examples():
    option = wire.port_set_option
    built = (
        (vectors.E1, wire.map_request(SOURCE, 3600, data(17, 50000), option(100, 50000))),
        (vectors.E3, wire.map_request(SOURCE, 3600, data(0, 1), option(65535, 1))),
        (vectors.E7, wire.map_request(SOURCE, 0, data(17, 50000), option(32, 50000))),
        (vectors.E15, wire.map_request(SOURCE, 3600, data(0, 0), option(65535, 0))),
        (vectors.E11, wire.announce_request(SOURCE)),
        (
            vectors.E6,
            wire.map_request(SOURCE, 3600, data(17, 50000, 37056, "192.0.2.3"), option(32, 50000)),
        ),
    )
    for wanted, octets in built:
        assert octets == wanted, octets


def test_responses_are_built_as_in_the_worked_examples():
    option = wire.port_set_option
    grant = data(17, 50000, 37056, "192.0.2.3")
    assert wire.map_response(0, 3600, 4660, grant, option(32, 50000)) == vectors.E2
    assert wire.map_response(10, 30, 4660, data(17, 50000), option(100, 50000)) == vectors.E10
    assert wire.map_response(0, 3600, 4660, data(17, 100, 100, "192.0.2.3")) == vectors.E5B
    assert wire.response(wire.OP_ANNOUNCE, 0, 0, 0) == vectors.E12


def test_a_grant_is_read_field_by_field():
    parsed = wire.parse_response(vectors.E4)
    assert (parsed.version, parsed.opcode, parsed.result) == (2, 1, 0)
    assert (parsed.lifetime, parsed.epoch) == (3600, 4660)
    assert parsed.map == data(0, 1, 26624, "192.0.2.5")
    octets = wire.find_option(parsed.options, wire.OPT_PORT_SET)
    assert wire.parse_port_set(octets) == wire.PortSetOption(2048, 26624, False)


def test_a_request_is_read_field_by_field():
    parsed = wire.parse_request(vectors.E6)
    assert (parsed.opcode, parsed.lifetime, parsed.client_ip) == (1, 3600, SOURCE)
    assert parsed.map == data(17, 50000, 37056, "192.0.2.3")
    assert parsed.options == [(130, bytes.fromhex("0020c35000"))]


def test_large_numbers_keep_their_value():
    for lifetime in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        octets = wire.map_request(SOURCE, lifetime, data(0, 65535, 65535))
        assert wire.parse_request(octets).lifetime == lifetime
        octets = wire.map_response(0, lifetime, lifetime, data(0, 65535, 65535))
        assert wire.parse_response(octets).lifetime == lifetime
        assert wire.parse_response(octets).epoch == lifetime
        assert wire.parse_response(octets).map.external_port == 65535


def test_the_parity_bit_is_the_lowest_of_its_octet():
    assert wire.port_set_option(2, 4, True)[8] == 1
    assert wire.port_set_option(2, 4)[8] == 0
    assert wire.parse_port_set(bytes.fromhex("0020c350ff")).parity is True
    assert wire.parse_port_set(bytes.fromhex("0020c350fe")).parity is False


def test_a_set_of_no_ports_or_too_many_is_never_sent():
    for size in (0, -1, 65536):
        assert "1 to 65535" in refused(wire.port_set_option, size, 1)


def test_a_port_set_option_of_another_length_is_refused():
    for length in range(12):
        reason = refused(wire.parse_port_set, b"\1" * length)
        assert (reason is None) == (length == 5), length
    assert "size 0" in refused(wire.parse_port_set, b"\0" * 5)


def test_options_are_padded_and_their_length_counts_data_only():
    for length in range(9):
        octets = wire.option(130, b"x" * length)
        assert len(octets) % 4 == 0 and len(octets) - 4 - length in (0, 1, 2, 3)
        assert octets[:4] == bytes([130, 0, 0, length])
        assert octets[4 + length :] == b"\0" * (len(octets) - 4 - length)
        assert wire.parse_options(octets, 0) == [(130, b"x" * length)]


def test_options_are_found_behind_others_of_any_length():
    for length in range(9):
        before = wire.option(128, b"d" * length) + wire.option(2) + wire.option(5, b"new!")
        octets = wire.map_response(0, 60, 1, data(0, 1), before + wire.port_set_option(7, 1))
        options = wire.parse_response(octets).options
        assert [code for code, _ in options] == [128, 2, 5, 130]
        assert wire.parse_port_set(wire.find_option(options, 130)).size == 7


def test_an_option_that_does_not_fit_spoils_the_message():
    for options in (
        "82000005",
        "8200000500200000",
        "820000ff00200000000000",
        "8200",
        "00",
        "82ffffff",
    ):
        octets = vectors.E2[:60] + bytes.fromhex(options)
        octets += b"\0" * 0
        if len(octets) % 4 == 0:
            assert refused(wire.parse_response, octets), options
        assert refused(wire.parse_options, octets, 60), options


def test_reserved_octets_of_an_answer_do_not_matter():
    for offset in (2, 12, 13, 22, 23, 37, 38, 39, 61, 69, 70, 71):
        change = {"at_%d" % offset: 0xFF}
        assert wire.parse_response(response(**change)) == wire.parse_response(vectors.E2), offset


def test_a_short_or_odd_or_oversized_answer_is_refused():
    for length in range(72):
        cut = vectors.E2[:length]
        # 60 is the whole MAP answer of one port; everything else lacks something.
        assert (refused(wire.parse_response, cut) is None) == (length == 60), length
    room = 1100 - 60 - 4
    fits = vectors.E2[:60] + wire.option(128, b"x" * room)
    assert len(fits) == 1100 and refused(wire.parse_response, fits) is None
    assert refused(wire.parse_response, vectors.E2[:60] + wire.option(128, b"x" * (room + 4)))
    assert refused(wire.parse_response, vectors.E2 + b"\0")


def test_a_request_is_no_response():
    for octets in (vectors.E1, vectors.E11, vectors.E14):
        assert refused(wire.parse_response, octets)


def test_another_version_is_refused_unless_it_says_unsupp_version():
    for version in (0, 1, 3, 255):
        assert refused(wire.parse_response, response(at_0=version))
        parsed = wire.parse_response(response(at_0=version, at_3=1))
        assert (parsed.result, parsed.version) == (wire.UNSUPP_VERSION, version)


def test_unsupp_version_counts_even_when_it_is_too_short_for_anything_else():
    for length in (4, 5, 7, 8, 23, 26, 71):
        parsed = wire.parse_response(vectors.E13[:length])
        assert (parsed.result, parsed.version) == (wire.UNSUPP_VERSION, 3)
        assert parsed.lifetime == (1800 if length >= 8 else 0), length
    for length in range(4):
        assert refused(wire.parse_response, vectors.E13[:length])


def test_the_result_is_one_octet():
    assert wire.parse_response(response(at_2=0x5A)).result == 0
    for code in range(2, 256):
        assert wire.parse_response(response(at_3=code)).result == code


def test_options_of_an_error_are_an_echo_and_no_grant():
    assert wire.parse_response(vectors.E10).options == []
    # The echo may even be of something broken: that is what the error is about.
    assert wire.parse_response(vectors.E9B).result == wire.MALFORMED_OPTION
    assert wire.parse_response(vectors.E10[:60] + bytes.fromhex("82000fff")).result == 10


def test_every_result_has_a_name():
    names = [wire.result_name(code) for code in range(256)]
    assert len(set(names)) == 256
    assert names[0] == "SUCCESS" and names[2] == "NOT_AUTHORIZED" and names[13][:9] == "EXCESSIVE"
    assert names[8] == "NO_RESOURCES" and names[14] == "RESULT_14" and names[255] == "RESULT_255"


def test_only_all_96_bits_make_an_ipv4_address():
    assert wire.is_v4(wire.ANY_V4) and len(wire.ANY_V4) == len(wire.ANY_V6) == 16
    assert not wire.is_v4(wire.ANY_V6)
    assert not wire.is_v4(bytes.fromhex("20010db8000000000000ffffc0000203"))
    for offset in range(12):
        octets = bytearray(wire.ANY_V4)
        octets[offset] ^= 1
        assert not wire.is_v4(bytes(octets)), offset


def test_a_server_refuses_a_request_that_is_cut():
    for length in range(72):
        assert (refused(wire.parse_request, vectors.E1[:length]) is None) == (length == 60)
    for length in range(24):
        assert refused(wire.parse_request, vectors.E11[:length])
