"""The lab's PCP server with libtorrent (Debian's 2.0.8), a PCP client that nobody here wrote.

libtorrent maps the ports that it listens on, TCP and UDP, at its default gateway. Seen of it: it
suggests its own address and the internal port, renews after three quarters of the lifetime, deletes
its mappings when it is told to stop, and does not listen for announcements.
"""

import json
import os
import subprocess
import sys

import pytest
from lwaftr import ctl

from tests.interop.conftest import HOME, SERVER, until
from tests.support.micropython import ROOT

# Debian's own Python is the one that Debian's package is for.
_PYTHON = "/usr/bin/python3"
_PORT = 6881
_BOTH = [("tcp", _PORT, _PORT), ("udp", _PORT, _PORT)]

# Prints a line for each mapping that it has got; a line of input makes it give them back.
_CLIENT = """
import json, select, sys
import libtorrent
session = libtorrent.session({
    "listen_interfaces": sys.argv[1], "enable_natpmp": True, "enable_upnp": False,
    "enable_lsd": False, "enable_dht": False,
    "alert_mask": libtorrent.alert.category_t.port_mapping_notification,
})
while sys.stdin not in select.select([sys.stdin], [], [], 0)[0]:
    session.wait_for_alert(100)
    for alert in session.pop_alerts():
        if isinstance(alert, libtorrent.portmap_alert):
            print(alert.external_port, flush=True)
sys.stdin.readline()
session.apply_settings({"enable_natpmp": False})
sys.stdin.read()
"""


class Server:
    """The lab's PCP server in a namespace, as its own command line starts it."""

    def __init__(self, namespace, folder, **policy):
        self._control = str(folder / "control")
        config = folder / "server.json"
        config.write_text(json.dumps({"pcp": policy}))
        path = os.pathsep.join((str(ROOT), str(ROOT / "qemu-lab")))
        words = [sys.executable, "-m", "lwaftr", "--pcp-only", "--config", str(config)]
        words += ["--listen", SERVER, "--control", self._control]
        self._log = folder / "server.log"
        with open(self._log, "w") as log:
            process = namespace.popen(
                words,
                env={**os.environ, "PYTHONPATH": path},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert b"ready on 198.51.100.1, UDP port: 5351" in process.stdout.readline()

    def call(self, command, **arguments):
        """The answer of its control socket."""
        return ctl.call(self._control, command, arguments)

    def mappings(self):
        """[(protocol, internal port, external port)]."""
        found = self.call("mappings")["mappings"]
        assert all(mapping["client"] == HOME for mapping in found)
        return sorted((m["protocol"], m["internal_port"], m["first_port"]) for m in found)

    def requests(self):
        """Number of datagrams that came in."""
        return sum(m["direction"] == "in" for m in self.call("messages")["messages"])

    def log(self):
        """Its lines in words."""
        return self._log.read_text()


@pytest.fixture
def client(home):
    """libtorrent in the home, whose gateway is the server; started by a call."""
    has = subprocess.run([_PYTHON, "-c", "import libtorrent"], capture_output=True)
    if has.returncode:
        pytest.fail("libtorrent is not installed: apt-get install python3-libtorrent")
    home.add_route("default", SERVER)
    words = [_PYTHON, "-c", _CLIENT, "%s:%d" % (HOME, _PORT)]
    pipe = subprocess.PIPE
    return lambda: home.popen(words, stdin=pipe, stdout=pipe, text=True)


def test_maps_its_ports_and_gives_them_back(operator, client, tmp_path):
    server = Server(operator, tmp_path)
    libtorrent = client()
    assert [libtorrent.stdout.readline(), libtorrent.stdout.readline()] == ["6881\n"] * 2
    assert server.mappings() == _BOTH
    assert "SUCCESS, tcp 192.0.2.1:6881 from internal port 6881, for 3600 s" in server.log()
    libtorrent.stdin.write("\n")
    libtorrent.stdin.flush()
    until(lambda: server.mappings() == [], "libtorrent to delete its mappings")
    assert "MAP, delete, udp, internal port 6881" in server.log()


def test_renews_and_survives_a_loss_of_state(operator, client, tmp_path):
    server = Server(operator, tmp_path, lifetime_min=1, lifetime_max=2)
    client()
    until(lambda: server.requests() >= 6, "two renewals of each mapping")
    until(lambda: server.mappings() == _BOTH, "both mappings")
    assert server.call("forget")["forgotten"]
    until(lambda: server.mappings() == _BOTH, "the same ports again")
