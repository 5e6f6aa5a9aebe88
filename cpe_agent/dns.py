"""DNS queries and answers as octets, as much of it as a stub resolver needs. Pure.

RFC 1035 3 and 4, RFC 3596 (AAAA). Names are ASCII text without the last dot; TTLs are seconds.
"""

import struct
from collections import namedtuple

from cpe_agent.pcp import wire

PORT = 53
A = 1
AAAA = 28
MAX_TTL = 86400  # s; longer ones are cut

_CNAME = 5
_IN = 1
_HEADER = ">HHHHHH"
_RESPONSE = 0x8000
_OPCODE = 0x7800
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_NO_SUCH_NAME = 3
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}
_LONGEST_NAME = 255  # octets, RFC 1035 2.3.4
_LONGEST_CHAIN = 8  # aliases in a row
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_"

# addresses: tuple of 16 octets, empty if the name has none of the kind. ttl: seconds.
Answer = namedtuple("Answer", ("addresses", "ttl"))


class Foreign(ValueError):
    """The datagram is no answer to our question: to be ignored, since anybody can send one."""


class Failure(ValueError):
    """The name server could not tell; the message says why."""


def is_name(text):
    """True for a host name: letters, digits, '-' and '_', and a last label that is no number."""
    labels = _labels(text)
    for label in labels:
        if not 1 <= len(label) <= 63 or label[0] == "-" or label[-1] == "-":
            return False
        if [char for char in label if char not in _LETTERS]:
            return False
    digits = [char for char in labels[-1] if char in "0123456789"]
    return len(text) <= 253 and len(digits) < len(labels[-1])


def query(name, kind, identifier):
    """A recursive query. kind: A or AAAA. identifier: 0 to 65535."""
    header = struct.pack(_HEADER, identifier, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + _question(name, kind)


def parse(data, name, kind, identifier):
    """Answer to such a query. Raises Foreign or Failure.

    Aliases are followed within the datagram; every name in it may point backwards only.
    """
    question = _question(name, kind)
    flags, answers, at = _match(data, question, identifier)
    rcode = flags & 15
    if flags & _TRUNCATED:
        raise Failure("the answer does not fit into a datagram")
    if rcode == _NO_SUCH_NAME:
        return Answer((), 0)
    if rcode:
        raise Failure("the name server says " + _RCODES.get(rcode, "error %d" % rcode))
    aliases, found = _records(data, at, answers, kind)
    return _follow(question[:-4], aliases, found)


def _labels(name):
    return (name[:-1] if name.endswith(".") else name).lower().split(".")


def _question(name, kind):
    octets = [bytes([len(label)]) + label.encode() for label in _labels(name)]
    return b"".join(octets) + b"\0" + struct.pack(">HH", kind, _IN)


def _match(data, question, identifier):
    """(flags, number of answer records, where they begin) of what answers the question."""
    if len(data) < 12:
        raise Foreign("too short")
    found, flags, questions, answers = struct.unpack_from(">HHHH", data)
    if found != identifier or flags & (_RESPONSE | _OPCODE) != _RESPONSE or questions != 1:
        raise Foreign("another exchange")
    end = 12 + len(question)
    if _lower(data[12 : end - 4]) != question[:-4] or data[end - 4 : end] != question[-4:]:
        raise Foreign("another question")
    return flags, answers, end


def _lower(octets):
    """Names are equal whatever the case of their letters (RFC 4343); lengths are below letters."""
    return bytes(octets).lower()


def _take(data, at, length):
    octets = bytes(data[at : at + length])
    if len(octets) < length:
        raise Failure("the answer is cut off")
    return octets


def _records(data, at, count, kind):
    """({owner: (target, ttl)}, {owner: [(address, ttl)]}) of the answer section."""
    aliases, found = {}, {}
    for _ in range(count):
        owner, at = _name(data, at)
        record, network, ttl, length = struct.unpack(">HHIH", _take(data, at, 10))
        at += 10
        rdata = _take(data, at, length)
        ttl = min(ttl, MAX_TTL) if ttl < 0x80000000 else 0  # RFC 2181 8
        if network == _IN and record == _CNAME:
            aliases[owner] = (_name(data, at)[0], ttl)
        elif network == _IN and record == kind:
            if length != (4 if kind == A else 16):
                raise Failure("an address of %d octets" % length)
            address = wire.V4_PREFIX + rdata if kind == A else rdata
            if wire.is_v4(address) == (kind == A):  # an IPv4 address is none of a host's AAAA
                found.setdefault(owner, []).append((address, ttl))
        at += length
    return aliases, found


def _name(data, at):
    """(name in octets without pointers and in lower case, where what follows it begins)."""
    out = b""
    end = None  # behind the first pointer
    limit = at
    while True:
        length = _take(data, at, 1)[0]
        if length == 0:
            return _lower(out) + b"\0", at + 1 if end is None else end
        if length & 0xC0 == 0xC0:
            target = (length & 0x3F) << 8 | _take(data, at + 1, 1)[0]
            if end is None:
                end = at + 2
            # Always further back, so that there is an end.
            if target >= limit:
                raise Failure("a name that points forwards")
            at = limit = target
            continue
        out += _take(data, at, 1 + length)
        if length & 0xC0 or len(out) >= _LONGEST_NAME:
            raise Failure("a name that cannot be")
        at += 1 + length


def _follow(owner, aliases, found):
    """Answer for the owner, through its aliases; the TTL is the shortest on the way."""
    ttl = MAX_TTL
    for _ in range(_LONGEST_CHAIN + 1):
        if owner in found:
            addresses = []
            for address, own in found[owner]:
                if address not in addresses:
                    addresses.append(address)
                ttl = min(ttl, own)
            return Answer(tuple(addresses), ttl)
        if owner not in aliases:
            return Answer((), 0)
        owner, own = aliases[owner]
        ttl = min(ttl, own)
    raise Failure("too many aliases in a row")
