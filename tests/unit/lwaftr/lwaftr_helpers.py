"""What the lab's tests share: the worked octets of RFC 7753 5, a server, and a client by hand."""

from lwaftr.config import from_dict
from lwaftr.server import PcpServer

from cpe_agent.pcp import wire

CLIENT = bytes.fromhex("20010db8000000000000000000000001")
PORT = 40000
NONCE = bytes(range(12))
EPOCH = 4660  # of the worked octets, seconds
NOW = EPOCH * 1000

_HEAD = "20010db8 00000000 00000000 00000001 000102030405060708090a0b"
_ANY = "00000000 00000000 0000ffff 00000000"
_EXT3 = "00000000 00000000 0000ffff c0000203"
_ANSWER = "00000000 00000000 00000000 000102030405060708090a0b"


def _octets(*parts):
    return bytes.fromhex("".join(parts))


E1 = _octets("02010000 00000e10", _HEAD, "11000000 c3500000", _ANY, "82000005 0064c350 00000000")
E2 = _octets(
    "02810000 00000e10 00001234", _ANSWER, "11000000 c35090c0", _EXT3, "82000005 0020c350 00000000"
)
E3 = _octets("02010000 00000e10", _HEAD, "00000000 00010000", _ANY, "82000005 ffff0001 00000000")
E4 = _octets(
    "02810000 00000e10 00001234",
    _ANSWER,
    "00000000 00016800 00000000 00000000 0000ffff c0000205 82000005 08006800 00000000",
)
E5A = _octets("02010000 00000e10", _HEAD, "11000000 00640000", _ANY, "82000005 00640064 00000000")
E5B = _octets("02810000 00000e10 00001234", _ANSWER, "11000000 00640064", _EXT3)
E5C = _octets(
    "02810000 00000e10 00001234", _ANSWER, "11000000 006500c9", _EXT3, "82000005 00630065 00000000"
)
E6 = _octets("02010000 00000e10", _HEAD, "11000000 c35090c0", _EXT3, "82000005 0020c350 00000000")
E7 = _octets("02010000 00000000", _HEAD, "11000000 c3500000", _ANY, "82000005 0020c350 00000000")
E8 = _octets(
    "02810000 00000000 0000125c", _ANSWER, "11000000 c3500000", _ANY, "82000005 0020c350 00000000"
)
E9A = E1[:64] + b"\0\0" + E1[66:]
E9B = _octets(
    "02810006 00000708 00001234", _ANSWER, "11000000 c3500000", _ANY, "82000005 0000c350 00000000"
)
E10 = _octets(
    "0281000a 0000001e 00001234", _ANSWER, "11000000 c3500000", _ANY, "82000005 0064c350 00000000"
)
E11 = _octets("02000000 00000000 20010db8 00000000 00000000 00000001")
E15 = _octets("02010000 00000e10", _HEAD, "00000000 00000000", _ANY, "82000005 ffff0000 00000000")

NAT44_POOL = {"addresses": ["192.0.2.3"], "first_port": 37056, "set_size": 32}
LW4O6_POOL = {"addresses": ["192.0.2.5"], "first_port": 26624, "set_size": 2048}


def make_server(pool=None, now_ms=0, faults=None, static=(), **pcp):
    """A server with that pool (dict), PCP policy (keywords), and start time."""
    values = {"pool": pool or {}, "pcp": pcp, "faults": faults or {}, "static": list(static)}
    return PcpServer(from_dict(values), random_bytes=lambda count: b"\0" * count, now_ms=now_ms)


def client_address(number):
    """16 octets of one of many clients."""
    return bytes.fromhex("20010db8") + number.to_bytes(4, "big") + bytes(7) + b"\1"


def map_request(
    client=CLIENT,
    protocol=0,
    internal=1,
    size=0xFFFF,
    lifetime=3600,
    nonce=NONCE,
    address=None,
    port=0,
    parity=False,
    extra=b"",
):
    """A MAP request; size None: without PORT_SET; address: IPv4 text of the suggestion."""
    external = wire.ANY_V4
    if address is not None:
        external = wire.V4_PREFIX + bytes(int(part) for part in address.split("."))
    data = wire.MapData(nonce, protocol, internal, port, external)
    option = b"" if size is None else wire.port_set_option(size, internal, parity)
    return wire.map_request(client, lifetime, data, option + extra)


def ask(server, now_ms=NOW, client=CLIENT, source_port=PORT, **request):
    """The parsed answers to a MAP request."""
    data = map_request(client, **request)
    return [
        wire.parse_response(out.data) for out in server.receive(now_ms, data, client, source_port)
    ]


def only(answers):
    """The one answer."""
    assert len(answers) == 1
    return answers[0]


def granted(answer):
    """(IPv4 as text, first external port, size, first internal port) of a success."""
    assert answer.result == wire.SUCCESS, wire.result_name(answer.result)
    address = ".".join(str(octet) for octet in answer.map.external_ip[12:])
    octets = wire.find_option(answer.options, wire.OPT_PORT_SET)
    if octets is None:
        return address, answer.map.external_port, 1, None
    option = wire.parse_port_set(octets)
    return address, answer.map.external_port, option.size, option.first_internal
