"""Worked packets: RFC 7753 section 5's examples and their kin, carried over IPv6.

Nonce 00..0b, client 2001:db8::1, lifetime 3600, epoch 4660. The octets were assembled by hand and
read back with tshark; none of them comes from wire.py.
"""


def _octets(text):
    return bytes.fromhex("".join(text.split()))


_HEAD = "02 01 00 00 00 00 0e 10 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 "
_DELETE_HEAD = "02 01 00 00 00 00 00 00 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01 "
_REPLY = "02 81 00 00 00 00 0e 10 00 00 12 34 00 00 00 00 00 00 00 00 00 00 00 00 "
_NONCE = "00 01 02 03 04 05 06 07 08 09 0a 0b "
_ANY = "00 00 00 00 00 00 00 00 00 00 ff ff 00 00 00 00 "
_EXTERNAL = "00 00 00 00 00 00 00 00 00 00 ff ff c0 00 02 "

# RFC 7753 5.1: UDP, internal port 50000, 100 ports; 32 from 192.0.2.3:37056 are given.
E1 = _octets(
    _HEAD + _NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 64 c3 50 00000000"
)
E2 = _octets(
    _REPLY + _NONCE + "11 00 00 00 c3 50 90 c0 " + _EXTERNAL + "03 82 00 00 05 00 20 c3 50 00000000"
)
# RFC 7753 5.2: all protocols, internal port 1, as many as possible; 2048 from 192.0.2.5:26624.
E3 = _octets(
    _HEAD + _NONCE + "00 00 00 00 00 01 00 00 " + _ANY + "82 00 00 05 ff ff 00 01 00000000"
)
E4 = _octets(
    _REPLY + _NONCE + "00 00 00 00 00 01 68 00 " + _EXTERNAL + "05 82 00 00 05 08 00 68 00 00000000"
)
# RFC 7753 5.3: one request that meets two mappings: port 100, and the set 101-199 on 201-299.
E5A = _octets(
    _HEAD + _NONCE + "11 00 00 00 00 64 00 00 " + _ANY + "82 00 00 05 00 64 00 64 00000000"
)
E5B = _octets(_REPLY + _NONCE + "11 00 00 00 00 64 00 64 " + _EXTERNAL + "03")
E5C = _octets(
    _REPLY + _NONCE + "11 00 00 00 00 65 00 c9 " + _EXTERNAL + "03 82 00 00 05 00 63 00 65 00000000"
)
# Renewal and deletion of E2, and the answer to the deletion (epoch 4700).
E6 = _octets(
    _HEAD + _NONCE + "11 00 00 00 c3 50 90 c0 " + _EXTERNAL + "03 82 00 00 05 00 20 c3 50 00000000"
)
E7 = _octets(
    _DELETE_HEAD + _NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 20 c3 50 00000000"
)
E8 = _octets(
    "02 81 00 00 00 00 00 00 00 00 12 5c 00 00 00 00 00 00 00 00 00 00 00 00 "
    + (_NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 20 c3 50 00000000")
)
# E1 with Port Set Size 0, and its refusal: MALFORMED_OPTION, 1800 s.
E9A = _octets(
    _HEAD + _NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 00 c3 50 00000000"
)
E9B = _octets(
    "02 81 00 06 00 00 07 08 00 00 12 34 00 00 00 00 00 00 00 00 00 00 00 00 "
    + (_NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 00 c3 50 00000000")
)
# USER_EX_QUOTA for 30 s to E1.
E10 = _octets(
    "02 81 00 0a 00 00 00 1e 00 00 12 34 00 00 00 00 00 00 00 00 00 00 00 00 "
    + (_NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 64 c3 50 00000000")
)
# ANNOUNCE: asked for, and as the notice of a restart (epoch 0).
E11 = _octets("02 00 00 00 00 00 00 00 20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01")
E12 = _octets("02 80 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00")
# UNSUPP_VERSION from a server of version 3, and from a NAT-PMP server.
E13 = _octets(
    "03 81 00 01 00 00 07 08 00 00 12 34 00 00 00 00 00 00 00 00 00 00 00 00 "
    + (_NONCE + "11 00 00 00 c3 50 00 00 " + _ANY + "82 00 00 05 00 64 c3 50 00000000")
)
E14 = _octets("00 00 00 01 00 00 12 34")
# All protocols as RFC 6887 11.1 has it: protocol 0, internal port 0.
E15 = _octets(
    _HEAD + _NONCE + "00 00 00 00 00 00 00 00 " + _ANY + "82 00 00 05 ff ff 00 00 00000000"
)
ALL = (
    ("E1", E1),
    ("E2", E2),
    ("E3", E3),
    ("E4", E4),
    ("E5A", E5A),
    ("E5B", E5B),
    ("E5C", E5C),
    ("E6", E6),
    ("E7", E7),
    ("E8", E8),
    ("E9A", E9A),
    ("E9B", E9B),
    ("E10", E10),
    ("E11", E11),
    ("E12", E12),
    ("E13", E13),
    ("E14", E14),
    ("E15", E15),
)
