"""Where the agent learns of servers: config, DHCP, host names and default routers."""

import json

import pytest

from cpe_agent.pcp import wire
from tests.unit.shell import rig
from tests.unit.shell.test_mappings import mapping_of, nat44, wait_up

LEARNED = "2001:db8:1::9"
HEX = "20010db8000100000000000000000009"
LINK_LOCAL = "fe80::1"
WEB = {"internal_port": "8080"}


@pytest.fixture
def learned_server(link, make_peer):
    """A PCP server at an address that nobody has configured."""
    link.isp.put_address("eth0", LEARNED + "/64")
    yield make_peer(rig.grant(), LEARNED)
    link.isp.run(["ip", "addr", "del", LEARNED + "/64", "dev", "eth0"])


def test_what_dhcp_tells_comes_before_the_lwaftr(learned_server, make_peer, make_agent):
    """RFC 7291; a lease that is held is kept with its server."""
    lwaftr = make_peer(rig.grant())
    agent = make_agent()
    assert agent.cli("learn", "wan", "dhcpv6", HEX).returncode == 0
    agent.start()
    assert agent.wait_held()["server"] == LEARNED
    assert learned_server.request()
    assert lwaftr.quiet(0.3)


def test_what_dhcp_tells_a_running_agent_is_heard(learned_server, make_peer, make_agent):
    lwaftr = make_peer()
    agent = make_agent()
    agent.start()
    lwaftr.request()
    assert agent.cli("learn", "wan", "dhcpv6", HEX).returncode == 0
    assert agent.wait_held()["server"] == LEARNED
    assert agent.cli("learn", "wan", "dhcpv6").returncode == 0
    assert agent.cli("release").returncode == 0
    agent.cli("renew")
    agent.wait(lambda found: found["server"] == rig.SERVER, "the lwAFTR again")


def test_a_configured_server_comes_before_what_dhcp_tells(learned_server, make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent(server=rig.SERVER)
    agent.cli("learn", "wan", "dhcpv6", HEX)
    agent.start()
    assert agent.wait_held()["server"] == rig.SERVER
    assert peer.request()
    assert learned_server.quiet(0.3)


LEARN = [
    (["wan", "dhcpv6", "2001"], 1, "DHCP option 86 is ignored"),
    (["wan", "dhcpv6", "xy"], 1, "it is not in hex digits"),
    (["wan", "dhcpv4", "05c0000201"], 1, "DHCP option 158 is ignored"),
    (["wan", "dhcpv4", "04c0000201"], 0, ""),
    (["wan", "dhcpv5", HEX], 2, "'learn' takes an interface"),
    (["wan"], 2, "'learn' takes an interface"),
    (["../run", "dhcpv6", HEX], 2, "allowed: 1 to 15 letters"),
    (["nowhere", "dhcpv6", HEX], 0, ""),
]


@pytest.mark.parametrize(("words", "code", "text"), LEARN, ids=lambda value: str(value)[:30])
def test_what_dhcp_tells_is_checked(make_agent, words, code, text):
    done = make_agent().cli("learn", *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr and bool(done.stderr) == bool(code)


FOREIGN = [
    "5",
    "[]",
    '{"wan": 5}',
    '{"wan": {"dhcpv6": "x"}}',
    '{"wan": {"dhcpv6": [5]}}',
    "\0\xff",
]
FOREIGN += [json.dumps({"wan": {"dhcpv6": ["zz"]}}), "[" * 3000]


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_file_of_what_dhcp_told_is_none(make_peer, make_agent, text):
    make_peer(rig.grant())
    agent = make_agent()
    (agent.directory / "run").mkdir()
    (agent.directory / "run" / "learned").write_text(text)
    agent.start()
    assert agent.wait_held()["server"] == rig.SERVER


def test_the_next_server_is_asked_where_nobody_listens(link, make_peer, make_agent):
    """ICMP says so."""
    make_peer(rig.grant())
    link.isp.put_address("eth0", LEARNED + "/64")
    try:
        agent = make_agent(server=[LEARNED, rig.SERVER])
        agent.start()
        assert agent.wait_held()["server"] == rig.SERVER
    finally:
        link.isp.run(["ip", "addr", "del", LEARNED + "/64", "dev", "eth0"])
    assert "the PCP server %s cannot be reached" % LEARNED in agent.log()


def test_a_host_name_that_nobody_can_resolve_is_named(make_agent):
    agent = make_agent(server="pcp.example.net")
    agent.start()
    text = agent.wait_error("pcp.example.net")
    assert "no PCP server can be asked" in text
    assert agent.status()["state"] == "waiting for a PCP server"


def test_an_ipv6_firewall_is_asked_at_the_link_local_default_router(link, make_peer, make_agent):
    """RFC 6887 8.1; from the address that the mapping is to be for, not from a link-local one."""

    def firewall(request):
        data = request.map._replace(external_port=8080, external_ip=request.client_ip)
        return wire.map_response(0, request.lifetime, 1000, data)

    link.isp.put_address("eth0", LINK_LOCAL + "/64")
    link.cpe.run(["ip", "-6", "route", "add", "default", "via", LINK_LOCAL, "dev", "wan"])
    try:
        peer = make_peer(firewall, LINK_LOCAL + "%eth0")
        agent = make_agent(softwire=False, mappings={"web": {**WEB, "family": "6"}})
        agent.start()
        found = wait_up(agent, "web")
        request, source = peer.request()
    finally:
        link.cpe.run(["ip", "-6", "route", "del", "default", "dev", "wan"])
        link.isp.run(["ip", "addr", "del", LINK_LOCAL + "/64", "dev", "eth0"])
    assert source[0] == rig.CLIENT
    assert request.map.external_ip == wire.ANY_V6
    assert (found["server"], found["address"], found["first_port"]) == (
        LINK_LOCAL,
        rig.CLIENT,
        8080,
    )


def test_a_default_router_is_not_asked_where_that_is_forbidden(link, make_peer, make_agent):
    link.isp.put_address("eth0", "10.9.0.1/24")
    link.cpe.put_address("wan", "10.9.0.2/24")
    link.cpe.add_route("default", "10.9.0.1")
    peer = make_peer(nat44(), "10.9.0.1")
    agent = make_agent(softwire=False, mappings={"web": {**WEB, "default_router": "0"}})
    try:
        agent.start()
        assert peer.quiet(0.5)
        assert "no PCP server can be asked" in mapping_of(agent, "web")["errors"][0]
    finally:
        link.isp.run(["ip", "addr", "del", "10.9.0.1/24", "dev", "eth0"])
        link.cpe.run(["ip", "addr", "del", "10.9.0.2/24", "dev", "wan"])
