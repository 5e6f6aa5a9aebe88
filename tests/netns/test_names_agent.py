"""A PCP server that is known by its name: the running agent, and a dnsmasq that nobody here wrote.

The name's TTL is a second. When the name moves, the lease stays where it was asked for, to its end;
without a lease the new address counts at once (docs/decisions.md).
"""

import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from tests.support import micropython
from tests.unit.shell import rig

NAME = "pcp.example.net"
OLD, NEW = "2001:db8:1::8", "2001:db8:1::9"
NEW_SET = ("192.0.2.3", 50176, 32)


class NameServer:
    """dnsmasq at the operator's end, with one name."""

    def __init__(self, link, directory):
        self._hosts = directory / "hosts"
        self.asked = 0  # questions for the name's IPv6 address
        self.point_to(OLD)
        words = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null"]
        words += ["--no-resolv", "--no-hosts", "--user=root", "--group=root", "--pid-file="]
        words += ["--bind-interfaces", "--listen-address=" + rig.SERVER, "--log-queries"]
        words += ["--local=/example.net/", "--local-ttl=1", "--addn-hosts=%s" % self._hosts]
        self._process = link.isp.popen(words, stderr=subprocess.PIPE, text=True)
        self._loaded = threading.Semaphore(0)
        threading.Thread(target=self._listen, daemon=True).start()
        self._wait_loaded()

    def _listen(self):
        for line in self._process.stderr:
            if "query[AAAA] " + NAME in line:
                self.asked += 1
            if "read %s" % self._hosts in line:
                self._loaded.release()

    def _wait_loaded(self):
        assert self._loaded.acquire(timeout=rig.PATIENCE), "dnsmasq has not read its hosts"

    def point_to(self, address):
        self._hosts.write_text("%s %s\n" % (address, NAME))

    def move(self, address):
        """The name stands for another address from now on."""
        self.point_to(address)
        self._process.send_signal(signal.SIGHUP)
        self._wait_loaded()

    def wait_told(self):
        """Until the agent has been told the name as it is now: it takes an answer before it asks
        the next time."""
        before = self.asked
        rig.wait_for(lambda: self.asked >= before + 2, "the agent to ask for the name again")

    def stop(self):
        self._process.kill()
        self._process.wait()


class ByName(rig.Agent):
    """An agent that asks for names again as soon as their TTL is over."""

    program = (str(pathlib.Path(__file__).with_name("names_of_a_second.py")),)


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    """A link whose router asks the operator's name server, and that has two servers' addresses."""
    resolv_conf = tmp_path_factory.mktemp("etc") / "resolv.conf"
    resolv_conf.write_text("nameserver %s\n" % rig.SERVER)
    with rig.Link() as made:
        for address in (OLD, NEW):
            made.isp.put_address("eth0", address + "/64")
        made.cpe.run(["mount", "--bind", str(resolv_conf), "/etc/resolv.conf"])
        yield made


@pytest.fixture
def names(link, tmp_path):
    made = NameServer(link, tmp_path)
    yield made
    made.stop()


@pytest.fixture
def servers(link):
    """(old, new): PCP servers with different sets; the old one's script is the test's."""
    made = rig.Peer(link, address=OLD), rig.Peer(link, rig.grant(*NEW_SET), NEW)
    yield made
    for peer in made:
        peer.stop()


@pytest.fixture(params=["cpython", "micropython"])
def agent(request, link, names, tmp_path):
    """An agent that knows its server by name, not started yet."""
    runtime = sys.executable if request.param == "cpython" else micropython.interpreter()
    made = ByName(link.cpe, runtime, tmp_path, server=NAME)
    yield made
    made.end()
    assert "Traceback" not in made.log()


def port_set(status):
    return status["address"], status["first_port"], status["size"]


def test_a_lease_stays_with_its_server_when_the_name_moves(agent, names, servers):
    old, new = servers
    old.script = rig.grant()
    agent.start()
    found = agent.wait_held()
    assert (found["server"], port_set(found)) == (OLD, rig.SET)
    old.request()
    names.move(NEW)
    names.wait_told()
    assert agent.cli("renew").returncode == 0
    old.request()
    found = agent.wait(lambda found: found["counts"]["renewals"] == 1, "the renewal")
    assert (found["server"], port_set(found)) == (OLD, rig.SET)
    assert new.requests.empty()
    # Given back, it is given back there; what comes after that is the new one's.
    assert "confirmed" in agent.cli("release").stdout
    assert old.request()[0].lifetime == 0
    assert agent.cli("renew").returncode == 0
    found = agent.wait_held()
    assert (found["server"], port_set(found)) == (NEW, NEW_SET)
    assert old.requests.empty()


def test_a_lease_whose_server_has_moved_away_ends_and_the_new_one_is_asked(agent, names, servers):
    old, new = servers
    old.script = rig.grant(lifetime=8)
    agent.start()
    assert agent.wait_held()["server"] == OLD
    old.script = lambda request: None
    names.move(NEW)
    found = agent.wait(lambda found: found["server"] == NEW, "the new server")
    found = agent.wait_held()
    assert port_set(found) == NEW_SET
    # Another server, another nonce (RFC 6887 11.2).
    assert new.request()[0].map.nonce != old.request()[0].map.nonce


def test_without_a_lease_the_new_address_is_asked_at_once(agent, names, servers):
    old, _ = servers
    agent.start()
    old.request()
    names.move(NEW)
    found = agent.wait_held()
    assert (found["server"], port_set(found)) == (NEW, NEW_SET)
