"""A router with two uplinks: which of them requests leave by (RFC 7291 7, RFC 6887 11.5)."""

import ipaddress

import pytest

from tests.unit.shell import rig

SECOND_HOME, SECOND_GATEWAY = "2001:db8:2::2", "2001:db8:2::1"
MAPPING = """\
config agent
 option backend 'none'
config mapping 'web'
 option internal_port '8080'
 option default_router '0'
"""
NOT_BY_WAN = """\
table ip6 uplinks {
 chain out {
  type filter hook output priority 0
  oifname "wan" udp dport 5351 drop
 }
}
"""


@pytest.fixture(scope="module")
def second(link):
    """A second uplink: the server can be reached by it, though the kernel prefers the first."""
    link._network.link(link.isp, "eth1", link.cpe, "wan2")
    link.isp.put_address("eth1", SECOND_GATEWAY + "/64")
    link.cpe.put_address("wan2", SECOND_HOME + "/64")
    link.cpe.run(
        ["ip", "route", "add", "2001:db8:1::/64", "via", SECOND_GATEWAY, "dev", "wan2"]
        + ["metric", "5000"]
    )


def test_a_learned_server_is_asked_by_its_interface_alone(second, link, make_peer, make_agent):
    peer = make_peer()
    agent = make_agent()
    agent.config.write_text(MAPPING)
    agent.start()
    server = ipaddress.ip_address(rig.SERVER).packed.hex()
    link.cpe.run(["nft", "-f", "-"], input=NOT_BY_WAN)
    try:
        assert agent.cli("learn", "lo", "dhcpv6", server).returncode == 0
        assert peer.quiet(0.5)
        assert agent.cli("learn", "lo", "dhcpv6").returncode == 0
        assert agent.cli("learn", "wan2", "dhcpv6", server).returncode == 0
        request, source = peer.request()
        assert source[0] == SECOND_HOME
        assert request.client_ip == ipaddress.ip_address(SECOND_HOME).packed
    finally:
        link.cpe.run(["nft", "delete", "table", "ip6", "uplinks"])
