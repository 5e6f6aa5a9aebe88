"""The softwire's far end: what the kernel is told, and which ICMPv6 is believed (RFC 7596 5)."""

import ipaddress
import struct

import pytest

from cpe_agent import config, plan, softwire
from cpe_agent.backends import linux
from cpe_agent.netlink import Path
from cpe_agent.portset import PortSet

LOCAL, REMOTE, STRANGER = (
    ipaddress.ip_address(text).packed for text in ("2001:db8:1::2", "2001:db8::1", "2001:db8::bad")
)
UNREACHABLE, FAILED_POLICY, NO_ROUTE, IPIP, UDP = 1, 5, 0, 4, 17


def quoted(next_header=IPIP, source=LOCAL, destination=REMOTE):
    """An IPv6 header as an ICMPv6 error quotes it."""
    return struct.pack(">IHBB", 6 << 28, 20, next_header, 64) + source + destination


def error(kind=UNREACHABLE, code=FAILED_POLICY, about=None):
    return bytes([kind, code]) + b"\0" * 6 + (quoted() if about is None else about)


def test_the_lwaftrs_word_about_our_softwire_means_that_the_binding_is_gone():
    assert softwire.says_binding_lost(error(), REMOTE, LOCAL, REMOTE)


DOUBTFUL = {
    "from another router": (error(), STRANGER),
    "another code": (error(code=NO_ROUTE), REMOTE),
    "another type": (error(kind=3), REMOTE),
    "about another protocol": (error(about=quoted(UDP)), REMOTE),
    "about another source": (error(about=quoted(source=STRANGER)), REMOTE),
    "about another destination": (error(about=quoted(destination=STRANGER)), REMOTE),
    "about nothing": (error(about=b""), REMOTE),
    "cut": (error()[:40], REMOTE),
    "empty": (b"", REMOTE),
}


@pytest.mark.parametrize("what", DOUBTFUL)
def test_any_other_icmpv6_is_discarded(what):
    message, sender = DOUBTFUL[what]
    assert not softwire.says_binding_lost(message, sender, LOCAL, REMOTE)


def test_the_kernel_is_told_of_one_far_end_and_no_encapsulation_limit():
    options = config.parse("config softwire\n\toption aftr '2001:db8::1'\n").softwire
    wanted = plan.build(options, Path("wan", 2, 1500, LOCAL), PortSet("192.0.2.3", 1024, 1024))
    commands = linux._tunnel_commands(wanted)
    (link,) = [line for line in commands if line.startswith("link add")]
    assert " type ip6tnl mode ipip6 local 2001:db8:1::2 remote 2001:db8::1 " in link
    assert " encaplimit none" in link
    assert "link set dev lw4o6 mtu 1460 up" in commands
