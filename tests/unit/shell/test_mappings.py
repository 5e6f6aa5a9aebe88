"""Mappings beside a softwire, or without one: by config and by command (RFC 7753 1.1, 5.1)."""

import json
import time

import pytest

from cpe_agent import store
from cpe_agent.pcp import wire
from tests.unit.shell import rig

ROUTER, HOME = "10.9.0.1", "10.9.0.2"
EXTERNAL = "192.0.2.3"
WEB = {"internal_port": "8080"}


@pytest.fixture(scope="module", autouse=True)
def _behind_nat44(link):
    """The router's end has an IPv4 address too, and a default route."""
    link.isp.put_address("eth0", ROUTER + "/24")
    link.cpe.put_address("wan", HOME + "/24")
    link.cpe.add_route("default", ROUTER)


def nat44(first=40000, lifetime=3600, external=EXTERNAL):
    """A script: a NAT that gives what is suggested, else ports from first on."""
    octets = wire.V4_PREFIX + bytes(int(part) for part in external.split("."))

    started = time.monotonic()

    def answer(request):
        epoch = 1000 + int(time.monotonic() - started)
        if request.opcode != wire.OP_MAP:
            return wire.response(request.opcode, 0, 0, epoch)
        data = request.map
        port = data.external_port or first + data.internal_port % 1000
        options = b""
        wanted = wire.find_option(request.options, wire.OPT_PORT_SET)
        if wanted:
            options = wire.option(wire.OPT_PORT_SET, wanted)
        data = data._replace(external_port=port, external_ip=octets)
        return wire.map_response(0, lifetime if request.lifetime else 0, epoch, data, options)

    return answer


@pytest.fixture
def make_keeper(make_agent):
    """make_keeper(**sections): an agent that keeps mappings alone."""
    return lambda **sections: make_agent(softwire=False, mappings=sections)


def mapping_of(agent, name):
    """What status shows of a mapping, or None."""
    found = [one for one in agent.status()["mappings"] if one["name"] == name]
    return found[0] if found else None


def wait_up(agent, name):
    """What status shows of a mapping, once it is held."""
    rig.wait_for(
        lambda: "address" in (mapping_of(agent, name) or {}), "the mapping; " + agent.log()
    )
    return mapping_of(agent, name)


def options_of(request):
    return dict(request.options)


# By config


def test_the_default_router_is_asked_and_status_shows_what_it_gave(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    found = wait_up(agent, "web")
    assert (found["state"], found["server"], found["source"]) == ("up", ROUTER, HOME)
    assert (found["address"], found["first_port"], found["size"]) == (EXTERNAL, 40080, 1)
    assert (found["protocol"], found["internal_port"]) == ("tcp", 8080)
    request, source = peer.request()
    assert source[0] == HOME
    assert (request.map.protocol, request.map.internal_port, request.lifetime) == (6, 8080, 3600)
    assert request.options == []
    done = agent.cli("status")
    assert done.returncode == 0
    for text in ("mapping 'web': up", "internal    tcp 8080", "ports       40080-40080 (1)"):
        assert text in done.stdout


def test_all_that_a_mapping_may_want_is_asked_for(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(
        fixed={
            "internal_port": "80",
            "internal_address": "192.168.1.7",
            "external_port": "8000",
            "external_address": "192.0.2.9",
            "prefer_failure": "1",
            "lifetime": "7200",
            "filter": ["198.51.100.0/24", "203.0.113.7 443"],
        },
        several={"internal_port": "500", "protocol": "udp", "ports": "4", "parity": "1"},
    )
    agent.start()
    fixed, _ = peer.request()
    several, _ = peer.request()
    if fixed.map.internal_port == 500:
        fixed, several = several, fixed
    found = options_of(fixed)
    assert fixed.lifetime == 7200
    assert fixed.map.external_port == 8000 and fixed.map.external_ip[12:] == b"\xc0\0\2\t"
    assert found[wire.OPT_THIRD_PARTY][12:] == b"\xc0\xa8\1\7"
    assert wire.OPT_PREFER_FAILURE in found and wire.OPT_PORT_SET not in found
    filters = [octets for code, octets in fixed.options if code == wire.OPT_FILTER]
    assert [(one[1], int.from_bytes(one[2:4], "big")) for one in filters][-2:] == [
        (120, 0),
        (128, 443),
    ]
    wanted = wire.parse_port_set(options_of(several)[wire.OPT_PORT_SET])
    assert (wanted.size, wanted.first_internal, wanted.parity) == (4, 500, True)
    assert several.map.protocol == wire.PROTO_UDP


def test_our_own_address_is_no_third_party(make_peer, make_keeper):
    """RFC 6887 13.1."""
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web={**WEB, "internal_address": HOME})
    agent.start()
    assert peer.request()[0].options == []
    wait_up(agent, "web")


def test_after_a_reboot_the_same_port_is_asked_for_with_the_same_nonce(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    first, _ = peer.request()
    agent.kill()
    for path in (agent.directory / "run").iterdir():
        path.unlink()  # RAM
    peer.script = nat44(first=50000)
    agent.start()
    again, _ = peer.request()
    assert again.map.nonce == first.map.nonce
    assert again.map.external_port == 40080 and again.map.external_ip[12:] == b"\xc0\0\2\3"
    assert wait_up(agent, "web")["first_port"] == 40080


def test_a_restarted_agent_holds_on_to_its_mappings(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    agent.kill()
    peer.script = lambda request: None
    assert agent.start()["mappings"][0]["state"] == "up"
    assert "adopting the running lease" in agent.log()


def test_changing_a_section_touches_that_mapping_alone(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    other = {"internal_port": "22"}
    agent = make_keeper(web=WEB, shell=other)
    agent.start()
    wait_up(agent, "web")
    wait_up(agent, "shell")
    first = {
        request.map.internal_port: request.map.nonce
        for request, _ in (peer.request(), peer.request())
    }
    agent.configure(softwire=False, mappings={"web": {**WEB, "ports": "2"}, "shell": other})
    assert agent.cli("reload").stdout == "configuration taken up\n"
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, first[8080])
    request, _ = peer.request()
    assert (request.map.internal_port, request.lifetime) == (8080, 3600)
    assert wire.OPT_PORT_SET in options_of(request)
    assert wait_up(agent, "web")["size"] == 2
    agent.configure(softwire=False, mappings={"shell": other})
    assert agent.cli("reload").returncode == 0
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.internal_port) == (0, 8080)
    assert peer.quiet(0.5)
    assert [one["name"] for one in agent.status()["mappings"]] == ["shell"]
    rig.wait_for(
        lambda: [name for name, _ in store.decode(agent.state.read_text())] == ["mapping shell"],
        "the state of the other to be forgotten",
    )


def test_a_longer_lifetime_is_a_renewal(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    first, _ = peer.request()
    agent.configure(softwire=False, mappings={"web": {**WEB, "lifetime": "7200"}})
    assert agent.cli("reload").returncode == 0
    again, _ = peer.request()
    assert (again.lifetime, again.map.nonce) == (7200, first.map.nonce)
    assert mapping_of(agent, "web")["state"] == "up"


def test_a_refusal_is_shown_in_words_with_its_mapping(make_peer, make_keeper):
    make_peer(rig.refuse(wire.USER_EX_QUOTA), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    rig.wait_for(lambda: mapping_of(agent, "web")["errors"], "the refusal")
    assert "refused (USER_EX_QUOTA)" in mapping_of(agent, "web")["errors"][0]
    done = agent.cli("status")
    assert done.returncode == 1
    assert "refused by the server" in done.stdout and "USER_EX_QUOTA" in done.stdout
    assert "error: mapping 'web': the PCP server" in agent.log()


def test_a_mapping_and_a_softwire_live_side_by_side(make_peer, make_agent):
    lwaftr = make_peer(rig.grant())
    router = make_peer(nat44(), ROUTER)
    agent = make_agent(mappings={"web": WEB})
    agent.start()
    agent.wait_held()
    wait_up(agent, "web")
    assert lwaftr.request()[0].map.protocol == wire.PROTO_ALL
    assert router.request()[0].map.internal_port == 8080
    assert len(store.decode(agent.state.read_text())) == 2
    assert agent.cli("release").returncode == 0
    assert router.request()[0].lifetime == 0
    assert lwaftr.request()[0].lifetime == 0
    assert list(agent.state.parent.glob("state*")) == []
    assert agent.cli("renew").returncode == 0
    agent.wait_held()
    wait_up(agent, "web")


def test_ports_that_are_the_softwires_are_not_asked_for_again(make_peer, make_agent):
    """RFC 7753 6.3: the server would take that for a request for the softwire's set. Here the
    config does not show it, since only the kernel knows the source that is used by default."""
    peer = make_peer(rig.grant())
    agent = make_agent(mappings={"web": {**WEB, "server": rig.SERVER, "source": rig.CLIENT}})
    agent.start()
    agent.wait_held()
    rig.wait_for(lambda: mapping_of(agent, "web")["errors"], "the complaint")
    text = mapping_of(agent, "web")["errors"][0]
    assert "internal ports 8080-8080 meet those of another mapping, 0-65535" in text
    peer.request()
    assert peer.quiet(0.3)
    done = agent.cli("map", "tcp", "22", "--server", rig.SERVER)
    assert done.returncode == 2
    assert "mapping 'tcp22' needs other ports, or another server than the softwire" in done.stderr


def test_release_without_an_agent_gives_mappings_back_too(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    peer.request()
    agent.kill()
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert "the server confirmed it" in done.stdout
    assert peer.request()[0].lifetime == 0


# By command


def test_a_command_makes_a_mapping_and_another_ends_it(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    peer.request()
    done = agent.cli(
        "map", "udp", "500", "--ports", "2", "--lifetime=600", "--external-port", "700"
    )
    assert (done.returncode, done.stdout) == (0, "udp500: 192.0.2.3 ports 700-701 (2)\n")
    request, _ = peer.request()
    assert (request.lifetime, request.map.external_port) == (600, 700)
    assert agent.cli("unmap", "udp500").returncode == 0
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, request.map.nonce)
    assert mapping_of(agent, "udp500") is None
    assert mapping_of(agent, "web")["state"] == "up"


def test_a_mapping_by_command_outlives_the_agent_but_no_reboot(make_peer, make_keeper):
    peer = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    assert agent.cli("map", "tcp", "22").returncode == 0
    assert "tcp22" not in agent.state.read_text()
    nonces = {request.map.nonce for request, _ in (peer.request(), peer.request())}
    agent.kill()
    agent.start()
    assert mapping_of(agent, "tcp22")["state"] == "up"
    assert {peer.request()[0].map.nonce, peer.request()[0].map.nonce} == nonces
    agent.kill()
    for path in (agent.directory / "run").iterdir():
        path.unlink()
    agent.start()
    assert mapping_of(agent, "tcp22") is None


COMMANDS = [
    (["map"], 2, "takes a protocol and an internal port"),
    (["map", "tcp"], 2, "takes a protocol and an internal port"),
    (["map", "tcp", "80", "90"], 2, "takes a protocol and an internal port"),
    (["map", "tcp", "80", "--ports"], 2, "--ports needs a value"),
    (["map", "tcp", "0"], 2, "option internal_port '0' cannot be used"),
    (["map", "icmp", "1"], 2, "option protocol 'icmp' cannot be used"),
    (["map", "tcp", "80", "--filter", "x"], 2, "option filter 'x' cannot be used"),
    (["map", "tcp", "80", "--ports=1", "--ports=2"], 2, "'ports' is a list"),
    (["map", "tcp", "8080"], 2, "internal ports 8080-8080 meet those of another mapping"),
    (["map", "tcp", "80", "--server", "2001:db8:1::77"], 1, ""),
    (["unmap"], 2, "takes a name"),
    (["unmap", "nothing"], 1, "there is no mapping 'nothing'"),
    (["unmap", "web"], 1, "is in the config file; delete it there"),
]


def test_commands_that_cannot_be_obeyed_say_why(make_peer, make_keeper):
    make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    assert agent.cli("map", "tcp", "80").returncode == 3
    agent.start()
    wait_up(agent, "web")
    for words, code, text in COMMANDS:
        done = agent.cli(*words)
        assert (done.returncode, done.stdout) == (code, ""), words
        assert text in done.stderr and done.stderr, (words, done.stderr)
    assert mapping_of(agent, "web")["state"] == "up"


GARBAGE = [
    {},
    {"protocol": 6, "internal_port": 80},
    {"protocol": "tcp", "internal_port": ["80"]},
    {"protocol": {"a": "tcp"}, "internal_port": "80"},
    {"protocol": "tcp", "internal_port": "80", "server": [["x"]]},
    {"protocol": "t" * 3000, "internal_port": "80"},
]


def test_garbage_instead_of_a_mapping_harms_nobody(make_peer, make_keeper):
    from cpe_agent import control

    make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    for request in GARBAGE:
        assert "error" in control.ask(str(agent.socket), "map", request), request
    assert "error" in control.ask(str(agent.socket), "unmap", {"name": ["web"]})
    assert [one["name"] for one in agent.status()["mappings"]] == ["web"]


ORDERS = ["", "5", "[]", '{"a": 5}', '{"a": {"internal_port": 5}}', "[" * 3000, "\0\xff"]
ORDERS += [json.dumps({"web": WEB}), json.dumps({"other": WEB})]


@pytest.mark.parametrize("text", ORDERS, ids=range(len(ORDERS)))
def test_a_foreign_file_of_commands_is_none(make_peer, make_keeper, text):
    make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    (agent.directory / "run").mkdir()
    (agent.directory / "run" / "mappings").write_text(text)
    agent.start()
    wait_up(agent, "web")
    assert [one["name"] for one in agent.status()["mappings"]] == ["web"]


def test_a_config_against_a_mapping_by_command_is_refused_with_the_way_out(make_peer, make_keeper):
    make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    assert agent.cli("map", "tcp", "22").returncode == 0
    agent.configure(softwire=False, mappings={"web": WEB, "shell": {"internal_port": "22"}})
    done = agent.cli("reload")
    assert done.returncode == 2
    assert "22-22 meet those of another mapping" in done.stderr
    assert "'cpe-agent unmap' ends those of commands" in done.stderr
    assert agent.cli("unmap", "tcp22").returncode == 0
    assert agent.cli("reload").returncode == 0
    wait_up(agent, "shell")


def test_a_softwire_may_come_and_go_beside_a_mapping(make_peer, make_keeper):
    lwaftr = make_peer(rig.grant())
    router = make_peer(nat44(), ROUTER)
    agent = make_keeper(web=WEB)
    agent.start()
    wait_up(agent, "web")
    router.request()
    agent.configure(mappings={"web": WEB})
    assert agent.cli("reload").returncode == 0
    agent.wait_held()
    lwaftr.request()
    agent.configure(softwire=False, mappings={"web": WEB})
    assert agent.cli("reload").returncode == 0
    assert lwaftr.request()[0].lifetime == 0
    assert "softwire" not in agent.status()
    assert mapping_of(agent, "web")["state"] == "up"
    assert router.quiet(0.3)
