"""IP addresses as PCP carries them: 16 octets, IPv4 as ::ffff:a.b.c.d (RFC 6887 5). Pure."""

import socket

from cpe_agent.pcp import wire


def text(octets):
    """16 octets as people write the address."""
    if wire.is_v4(octets):
        return socket.inet_ntop(socket.AF_INET, octets[12:])
    return socket.inet_ntop(socket.AF_INET6, octets)


def octets(text):
    """What text() made, or a person wrote, as 16 octets. Raises ValueError."""
    try:
        if "." in text and ":" not in text:
            return wire.V4_PREFIX + socket.inet_pton(socket.AF_INET, text)
        return socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        raise ValueError("%s is not an IP address" % text) from None
