"""Datagrams for the fuzzers: right ones, and right ones with chosen damage."""

from cpe_agent.pcp import wire
from tests.unit.core import vectors
from tests.unit.core.bench import OTHER_NONCE, SERVER, SOURCE, STRANGER

VECTORS = [octets for _, octets in vectors.ALL]
ADDRESSES = (
    wire.V4_PREFIX + b"\xc0\0\2\3",
    wire.V4_PREFIX + b"\xc6\x33\x64\x07",
    bytes.fromhex("20010db8000000000000000000000099"),
    wire.ANY_V4,
    wire.V4_PREFIX + b"\x7f\0\0\1",
    wire.V4_PREFIX + b"\xe0\0\0\1",
    wire.ANY_V6,
)
# (offset, length) of the fields of a MAP response with PORT_SET; what is not the match key is there
# twice, so that it is hit more often.
_KEY = ((0, 1), (1, 1), (24, 12), (36, 1), (40, 2))
_REST = (
    (2, 1),
    (3, 1),
    (4, 4),
    (8, 4),
    (12, 12),
    (37, 3),
    (42, 2),
    (44, 16),
    (60, 1),
    (61, 1),
    (62, 2),
    (64, 2),
    (66, 2),
    (68, 1),
)
_FIELDS = _KEY + _REST + _REST


def answer(chance, mapping, epoch):
    """A response that a server with that epoch, in seconds, could send to a mapping."""
    epoch = max(0, epoch + chance.choice((0, 0, 0, 0, 1, -1, -20, -5000, 100000))) & 0xFFFFFFFF
    if chance.random() < 0.1:
        return wire.response(wire.OP_ANNOUNCE, 0, chance.choice((0, 999)), epoch)
    nonce = mapping.nonce if chance.random() < 0.9 else OTHER_NONCE
    wish = mapping.wish
    data = wire.MapData(
        nonce,
        wish.protocol,
        mapping.internal_port,
        chance.choice((37056, 37056, 1024, 65530, 0)),
        chance.choice(ADDRESSES[2:3] if wish.family == 6 else ADDRESSES[:1] * 4 + ADDRESSES),
    )
    options = b""
    if chance.random() < 0.8:
        size = chance.choice((32, 32, 1, 2048, 65535))
        options = wire.port_set_option(size, mapping.internal_port)
    result = chance.choice((0, 0, 0, 0, 1, 2, 3, 5, 8, 10, 13, 200))
    lifetime = chance.choice((3600, 3600, 120, 1, 0, 0xFFFFFFFF))
    return wire.map_response(result, lifetime, epoch, data, options)


def damage(chance, octets):
    """One or two fields of a response with another value."""
    octets = bytearray(octets)
    for _ in range(chance.choice((1, 1, 2))):
        offset, length = chance.choice(_FIELDS)
        if offset + length > len(octets):
            continue
        field = slice(offset, offset + length)
        old = int.from_bytes(octets[field], "big")
        new = chance.choice(("random", 0, -1, old + 1, old - 1, "random"))
        if new == "random":
            octets[field] = chance.randbytes(length)
        else:
            octets[field] = (new % (1 << 8 * length)).to_bytes(length, "big")
    return bytes(octets)


def mutate(chance, octets):
    """A few octets changed, cut, added, doubled or moved, wherever they are."""
    octets = bytearray(octets)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        kind = chance.randrange(6)
        at = chance.randrange(len(octets)) if octets else 0
        if kind < 2 and octets:
            octets[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        elif kind == 2 and octets:
            octets[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            del octets[at:]
        elif kind == 4:
            octets += chance.randbytes(chance.choice((1, 4, 8))) * chance.choice((1, 12, 137))
        else:
            octets[at:at] = octets[at : at + chance.choice((1, 4, 12))]
    return bytes(octets)


def anything(chance, mapping, epoch):
    """Octets between nonsense and a right answer to the mapping."""
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.choice((0, 1, 3, 4, 8, 24, 60, 72)))
    if kind < 0.1:
        head = bytes((2, chance.choice((0x80, 0x81, 0x81, 0x82)), 0, chance.randrange(16)))
        return head + chance.randbytes(chance.choice((20, 56, 68, 96)))
    if kind < 0.2:
        return mutate(chance, chance.choice(VECTORS))
    octets = answer(chance, mapping, epoch)
    if kind < 0.4:
        return mutate(chance, octets)
    if kind < 0.65:
        return damage(chance, octets)
    return octets


def whence(chance):
    """(source address, source port) of a datagram, the right ones as a rule."""
    kind = chance.random()
    address = SERVER if kind > 0.1 else chance.choice((STRANGER, SOURCE, bytes(16)))
    port = wire.SERVER_PORT if kind < 0.9 else chance.choice((0, 5350, 5352, 65535))
    return address, port


def stranger(chance):
    """(source address, source port) that are not the server's."""
    return chance.choice(((STRANGER, wire.SERVER_PORT), (SERVER, 5350), (SOURCE, 5351)))
