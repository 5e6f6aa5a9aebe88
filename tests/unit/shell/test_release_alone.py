"""'cpe-agent release' where no agent runs and the PCP server is known by a host name."""

import subprocess

import pytest

from tests.unit.shell import rig
from tests.unit.shell.test_mappings import ROUTER, nat44, wait_up

NAME = "pcp.example.net"
_WORDS = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null"]
_WORDS += ["--no-resolv", "--no-hosts", "--user=root", "--group=root", "--pid-file="]
_WORDS += ["--bind-interfaces", "--listen-address=" + rig.SERVER]


@pytest.fixture(scope="module", autouse=True)
def _ipv4(link):
    link.isp.put_address("eth0", ROUTER + "/24")
    link.cpe.put_address("wan", "10.9.0.2/24")


@pytest.fixture(autouse=True)
def _resolv_conf(link, tmp_path):
    """The router asks the operator's name server."""
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver %s\n" % rig.SERVER)
    link.cpe.run(["mount", "--bind", str(path), "/etc/resolv.conf"])
    yield
    link.cpe.run(["umount", "/etc/resolv.conf"])


@pytest.fixture
def name_server(link):
    """name_server(address): the operator's name server knows NAME; its end is a call away."""
    started = []

    def start(address=rig.SERVER):
        words = [*_WORDS, "--host-record=%s,%s" % (NAME, address)]
        process = link.isp.popen(words, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert next((line for line in process.stderr if "started" in line), None)
        return lambda: end(process)

    yield start
    for process in started:
        end(process)


def end(process):
    process.kill()
    process.wait()


def test_the_set_is_given_back_to_a_server_known_by_name(name_server, make_peer, make_agent):
    name_server()
    peer = make_peer(rig.grant())
    agent = make_agent(server=NAME)
    agent.start()
    agent.wait_held()
    request, _ = peer.request()
    agent.kill()
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert "the server confirmed it" in done.stdout
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, request.map.nonce)
    assert peer.quiet(0.3), "nothing is asked for in between"


def test_a_mapping_is_given_back_to_a_server_known_by_name(
    link, name_server, make_peer, make_agent
):
    name_server(ROUTER)
    peer = make_peer(nat44(), ROUTER)
    agent = make_agent(
        softwire=False,
        mappings={"web": {"internal_port": "80", "server": NAME, "default_router": "0"}},
    )
    agent.start()
    wait_up(agent, "web")
    peer.request()
    agent.kill()
    done = agent.cli("release")
    assert done.returncode == 0, done.stderr
    assert peer.request()[0].lifetime == 0
    assert peer.quiet(0.3)


def test_a_name_that_nobody_resolves_is_named_and_the_set_can_be_given_back_later(
    name_server, make_peer, make_agent
):
    stop = name_server()
    peer = make_peer(rig.grant())
    agent = make_agent(server=NAME)
    agent.start()
    agent.wait_held()
    request, _ = peer.request()
    agent.kill()
    stop()
    done = agent.cli("release")
    assert done.returncode == 1
    assert NAME + ": no name server" in done.stderr  # silent, or not there: as the kernel says
    assert "run 'cpe-agent release' again" in done.stderr
    assert "Traceback" not in done.stderr
    name_server()
    assert agent.cli("release").returncode == 0
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.nonce) == (0, request.map.nonce)
