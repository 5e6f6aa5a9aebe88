"""The agent against miniupnpd (Debian's 2.3.1), a PCP server that nobody here wrote.

Seen of it, and what follows from that:

- It does not count an option's padding, so PORT_SET (5 octets) makes it refuse the whole request
  with MALFORMED_OPTION, where RFC 6887 7.3 wants an unknown optional option ignored. Only a request
  for one port, which carries no PORT_SET (RFC 7753 4.1), gets a mapping: the agent falls back.
- Protocol 0 it calls MALFORMED_REQUEST, with any internal port.
- Refusals have lifetime 0, and repeat the request's body.
- It keeps no nonce with a mapping: any nonce may renew, where RFC 6887 11.3 wants NOT_AUTHORIZED.
  A deletion does need the right one.
- Over IPv6 it opens a pinhole for the client's own address instead of mapping an IPv4 address, even
  though the suggested address is ::ffff:0.0.0.0.
- It announces a restart to 224.0.0.1 alone while its link-local address is tentative; the agent
  has no ear for IPv4 multicast, so the next renewal is what tells.
"""

import pytest

from tests.interop.conftest import DENY, EXTERNAL, HOME, PORT, SERVER, SERVER_V6, until

MAPPING = (PORT, HOME, PORT)
EVERY_REFUSAL = [
    (
        {"protocol": "all", "internal_port": 1, "ports": 64},
        "MALFORMED_OPTION",
        "a server that gives port sets",
    ),
    (
        {"protocol": "all", "internal_port": 0, "ports": 64},
        "MALFORMED_OPTION",
        "a server that gives port sets",
    ),
]

# For tests that wait for the protocol's timers, which are the same on both.
THE_ROUTERS_RUNTIME = pytest.mark.parametrize("runtime", ["micropython"], indirect=True)


def held_port(status):
    """(address, first port, size) of a status."""
    return status["address"], status["first_port"], status["size"]


def requests_in(capture):
    """(protocol, internal port, suggested port, lifetime) of each request, as tshark reads it."""
    fields = ["map.protocol", "map.internal_port", "map.req_sug_external_port", "lifetime_req"]
    fields = ["portcontrol." + field for field in fields]
    return [tuple(map(int, row)) for row in capture.read("portcontrol.r == 0 && !icmp", *fields)]


def test_one_port_is_taken_for_what_it_is(agent, miniupnpd):
    miniupnpd.start()
    agent.start()
    status = agent.until_held()
    assert held_port(status) == (EXTERNAL, PORT, 1)
    assert status["last_port"] == PORT
    assert status["state"] == "up"
    assert status["lifetime"] == 3600
    assert status["counts"]["sent"] == 1
    assert status["next"]["what"] == "renewal"
    assert 1790 <= status["next"]["in"] <= 2250  # and no request for more before that
    assert agent.cli("status").returncode == 0
    assert "warning: the server gave one port only" in agent.log()
    assert miniupnpd.mappings() == [MAPPING]


@pytest.mark.parametrize(("options", "result", "advice"), EVERY_REFUSAL)
def test_a_refusal_is_named_with_what_to_do(agent, miniupnpd, options, result, advice):
    miniupnpd.start()
    agent.start(**options)
    status = agent.until_error("refused (%s)" % result)
    assert advice in status["errors"][0]
    assert status["state"] == "refused by the server"
    assert status["counts"]["sent"] == 1
    assert status["next"]["what"].startswith("request, when the server's waiting time is over")
    assert 0 <= status["next"]["in"] <= 7
    assert agent.cli("status").returncode == 1
    assert status["errors"][0] in agent.log()
    assert miniupnpd.mappings() == []


def test_a_server_that_chokes_on_port_set_still_gives_one_port(agent, miniupnpd, capture):
    miniupnpd.start()
    agent.start(ports="max")
    assert held_port(agent.until_held()) == (EXTERNAL, PORT, 1)
    assert agent.status()["errors"] == []
    assert "does not understand PORT_SET; asking for one port" in agent.log()
    assert miniupnpd.mappings() == [MAPPING]
    first, second = capture.request_times()
    assert second - first >= 4


@THE_ROUTERS_RUNTIME
def test_a_server_that_denies_is_not_stormed(agent, miniupnpd, capture):
    miniupnpd.start(DENY)
    agent.start()
    status = agent.until_error("refused (NOT_AUTHORIZED)")
    assert "does not know this line" in status["errors"][0]
    assert status["counts"]["sent"] == 1
    until(lambda: agent.status()["counts"]["received"] == 2, "the second refusal")
    first, second = capture.request_times()
    assert second - first >= 4
    assert "refused (NOT_AUTHORIZED)" in agent.log()
    assert "address" not in agent.status()


@THE_ROUTERS_RUNTIME
def test_after_a_restart_of_the_server_the_same_port_comes_back(agent, miniupnpd, capture):
    miniupnpd.start()
    agent.start()
    before = agent.until_held()
    until(lambda: agent.status()["age"] >= 4, "an epoch that a restart must fall behind")
    miniupnpd.crash()
    assert miniupnpd.mappings() == []
    miniupnpd.start()
    agent.cli("renew")
    after = agent.until_held(renewals=1)
    assert held_port(after) == held_port(before)
    assert "lost its state; asking for the same set again" in agent.log()
    assert miniupnpd.mappings() == [MAPPING]
    first, *others = requests_in(capture)
    assert first == (17, PORT, 0, 3600)
    assert set(others) == {(17, PORT, PORT, 3600)}


def test_a_port_is_asked_for_again_even_where_the_server_would_choose_another(agent, miniupnpd):
    """The suggestion, not the server's habit of mapping a port to itself, brings it back."""
    miniupnpd.start("deny 40000 0.0.0.0/0 0-65535\nallow 1024-65535 0.0.0.0/0 1024-65535")
    agent.start()
    before = agent.until_held()
    assert held_port(before) == (EXTERNAL, PORT + 1, 1)
    agent.kill()
    miniupnpd.crash()
    miniupnpd.start()
    agent.restart()
    assert held_port(agent.until_held(renewals=1)) == held_port(before)
    assert miniupnpd.mappings() == [(PORT + 1, HOME, PORT)]


def test_a_renewal_keeps_port_and_flash_and_starts_the_lifetime_anew(agent, miniupnpd):
    miniupnpd.start()
    agent.start()
    before = agent.until_held()
    flash = agent.state.stat()
    aged = until(lambda: _aged(agent, before), "the lifetime to run down")
    assert agent.cli("renew").returncode == 0
    after = agent.until_held(renewals=1)
    assert held_port(after) == held_port(before)
    assert after["remaining"] > aged["remaining"]
    assert after["counts"]["sent"] == 2
    assert after["store_writes"] == before["store_writes"]
    now = agent.state.stat()
    assert (now.st_ino, now.st_mtime_ns) == (flash.st_ino, flash.st_mtime_ns)
    assert miniupnpd.mappings() == [MAPPING]


def _aged(agent, before):
    status = agent.status()
    return status if status["remaining"] <= before["remaining"] - 2 else None


def test_release_deletes_the_mapping_and_every_trace(agent, miniupnpd):
    miniupnpd.start()
    agent.start()
    agent.until_held()
    assert agent.state.exists()
    done = agent.cli("release")
    assert (done.returncode, "released: the server confirmed it" in done.stdout) == (0, True)
    assert miniupnpd.mappings() == []
    assert not agent.state.exists()
    status = agent.status()
    assert status["state"] == "released"
    assert "address" not in status
    assert agent.cli("status").returncode == 1


def test_release_works_without_an_agent(agent, miniupnpd):
    miniupnpd.start()
    agent.start()
    agent.until_held()
    agent.kill()
    assert miniupnpd.mappings() == [MAPPING]
    done = agent.cli("release")
    assert (done.returncode, "released: the server confirmed it" in done.stdout) == (0, True)
    assert miniupnpd.mappings() == []
    assert not agent.state.exists()
    assert agent.cli("status").returncode == 3


def test_a_release_that_the_server_refuses_is_not_called_silence(agent, miniupnpd):
    miniupnpd.start()
    agent.start(protocol="all", internal_port=1, ports=64)
    agent.until_error("MALFORMED_OPTION")
    done = agent.cli("release")
    assert done.returncode == 0
    assert "released here; the server was silent or refused" in done.stdout
    assert "the server did not confirm the release" in agent.log()
    assert agent.state.exists()  # with the nonce: the server may hold a mapping of it


def test_an_agent_that_was_killed_goes_on_with_its_nonce(agent, miniupnpd, capture):
    miniupnpd.start()
    agent.start()
    before = agent.until_held()
    agent.kill()
    agent.restart()
    after = agent.until_held(renewals=1)
    assert held_port(after) == held_port(before)
    assert miniupnpd.mappings() == [MAPPING]
    assert "adopting the running lease" in agent.log()
    nonces = capture.read("portcontrol.r == 0 && !icmp", "portcontrol.map.nonce")
    assert len(nonces) == 2
    assert nonces[0] == nonces[1]


def test_without_its_state_an_agent_copes_with_what_the_server_says(agent, miniupnpd):
    """RFC 6887 11.3 wants NOT_AUTHORIZED for the new nonce. 2.3.1 forgets to look, and gives the
    port to whoever asks from the same address; a stricter one must be named as such."""
    miniupnpd.start()
    agent.start()
    agent.until_held()
    agent.kill()
    agent.state.unlink()
    (agent.state.parent.parent / "run/lease").unlink()
    agent.restart()
    status = until(lambda: _answered(agent), "an answer")
    if "address" in status:
        assert held_port(status) == (EXTERNAL, PORT, 1)
    else:
        assert "made with another nonce" in status["errors"][0]
    assert miniupnpd.mappings() == [MAPPING]


def _answered(agent):
    status = agent.status()
    return status if status["counts"]["received"] else None


def test_nobody_listening_is_said_at_once(agent):
    agent.start()
    status = agent.until_error("no PCP server listens on its UDP port 5351")
    assert "check option aftr or server" in status["errors"][0]
    assert status["state"] == "asking for a port set"
    assert status["next"]["what"] == "request"
    assert agent.cli("status").returncode == 1
    assert status["errors"][0] in agent.log()


@THE_ROUTERS_RUNTIME
def test_nobody_there_is_said_after_three_requests(agent, operator, capture):
    drop = "add table ip quiet; add chain ip quiet input { type filter hook input priority 0; };"
    operator.run(["nft", drop + "add rule ip quiet input udp dport 5351 drop"])
    agent.start()
    status = agent.until_error("is silent after 3 requests; still asking")
    assert SERVER in status["errors"][0]
    assert "UDP port 5351 is open on the way" in status["errors"][0]
    first, second, third = capture.request_times()
    assert 2.6 <= second - first <= 3.4
    assert 1.7 <= (third - second) / (second - first) <= 2.3


def test_over_ipv6_a_pinhole_is_no_port_set(agent, miniupnpd):
    miniupnpd.start()
    agent.start(server=SERVER_V6)
    status = agent.until_error("the external address is not IPv4")
    assert "give the operator this line" in status["errors"][0]
    assert "address" not in status
    assert 20 <= status["next"]["in"] <= 31
    assert agent.cli("status").returncode == 1
    assert agent.cli("release").returncode == 0


def test_tshark_finds_no_fault_in_a_whole_conversation(agent, miniupnpd, capture):
    miniupnpd.start()
    agent.start(ports="max")  # with PORT_SET, which is refused, then without
    agent.until_held()
    assert agent.cli("release").returncode == 0
    opcodes = capture.read("portcontrol", "portcontrol.r", "portcontrol.opcode")
    assert opcodes.count(["0", "1"]) == opcodes.count(["1", "1"]) == 3
    assert capture.read("_ws.malformed || _ws.expert.severity == error", "frame.number") == []
