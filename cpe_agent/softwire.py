"""The IPv4-in-IPv6 softwire: its size, and what its far end says about it. Pure."""

_ENCAPSULATION = 40  # octets of the IPv6 header around each packet; no encapsulation limit option
_UNREACHABLE = 1
_FAILED_POLICY = 5  # "source address failed ingress/egress policy" (RFC 4443 3.1)
_IPPROTO_IPIP = 4


def mtu(link):
    """MTU of the softwire over a link of that MTU, in octets (RFC 2473 6.7)."""
    return link - _ENCAPSULATION


def says_binding_lost(message, sender, local, remote):
    """True when an ICMPv6 message means that the lwAFTR has no binding for us (RFC 7596 5.1).

    message: from the ICMPv6 type on. Only the lwAFTR's own word counts, and only about a packet of
    our softwire: anybody can send ICMPv6. Addresses are 16 octets.
    """
    quoted = message[8:]
    return (
        sender == remote
        and len(quoted) >= 40
        and message[0] == _UNREACHABLE
        and message[1] == _FAILED_POLICY
        and quoted[6] == _IPPROTO_IPIP
        and bytes(quoted[8:24]) == local
        and bytes(quoted[24:40]) == remote
    )
