"""The genuine miniupnpd, as the agent leads it: ports of the set by the shared address, by UPnP,
NAT-PMP and PCP, and after a change those of the new set (miniupnp/miniupnp#465).

The namespace 'operator' is the router here, its 'up' the softwire, and 'home' a host of the LAN.
"""

import re
import socket
import struct
import sys

import pytest

from cpe_agent import portset
from tests.interop.conftest import EXTERNAL, SERVER, Miniupnpd, program, until
from tests.support import micropython

OWN = portset.PortSet(EXTERNAL, 40960, 64)
OTHER = portset.PortSet("5.0.0.9", 50000, 64)
FORWARDED = 40970
INNER = "192.0.0.2"
HOST = "198.51.100.2"

# What of OpenWrt's init script counts here: the config from UCI's state, and a start with empty
# chains. tests/unit/shell has what its uci makes of the state.
_INIT = """\
#!/bin/sh
cd %(folder)s
[ $1 = restart ] || exit 0
if [ -s pid ]; then
    old=$(cat pid)
    kill $old
    while kill -0 $old 2>/dev/null; do sleep 0.1; done
fi
for chain in miniupnpd prerouting_miniupnpd postrouting_miniupnpd; do
    nft flush chain inet filter $chain
done
{
    cat base.conf
    sed -n "s/^upnpd.config.external_ip='\\(.*\\)'$/ext_ip=\\1/p" state/upnpd
    sed -n "s/.*ext_ports='\\(.*\\)'$/deny \\1 0.0.0.0\\/0 0-65535/p" state/upnpd
    echo 'allow 1024-65535 0.0.0.0/0 1024-65535'
    echo 'deny 0-65535 0.0.0.0/0 0-65535'
} > miniupnpd.conf
echo >> starts
exec %(program)s -f miniupnpd.conf -P %(folder)s/pid
"""
_BASE = """\
ext_ifname=up
listening_ip=eth0
enable_natpmp=yes
enable_upnp=yes
port=5000
secure_mode=yes
system_uptime=no
lease_file=%s/leases
uuid=00000000-0000-4000-8000-000000000001
"""
_UPNPD = "config upnpd 'config'\n option enabled '1'\n"
# The agent's part, run on the router.
_FOLLOW = """
import sys, types
from cpe_agent import portset
from cpe_agent.backends.miniupnpd import Miniupnpd
folder, address, first, size, *reserved = sys.argv[1:]
sets = (portset.PortSet(address, int(first), int(size)),)
plan = types.SimpleNamespace(
    port_sets=sets, reserved=tuple(map(int, reserved)), address=address
)
service = Miniupnpd("wan4", folder + "/upnpd", folder + "/state/upnpd", folder + "/init")
service.follow(plan, False, lambda: "")
print(service.problems(plan))
"""
# A host's part: sends a request, in hex, and prints the answer.
_ASK = """
import socket, sys
kind, request = sys.argv[1], bytes.fromhex(sys.argv[2])
sock = socket.socket(type=socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
sock.settimeout(10)
sock.connect(("198.51.100.1", 5351 if kind == "udp" else 5000))
sock.sendall(request)
answer = sock.recv(65535)
while kind == "tcp" and (more := sock.recv(65535)):
    answer += more
print(answer.hex())
"""
_SERVICE = "urn:schemas-upnp-org:service:WANIPConnection:%d"
_SOAP = """<?xml version="1.0"?>
<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
 s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>
<u:%(action)s xmlns:u="%(service)s">%(arguments)s</u:%(action)s></s:Body></s:Envelope>
"""


class Router(Miniupnpd):
    """miniupnpd, and the agent that leads it."""

    def __init__(self, namespace, folder):
        super().__init__(namespace, folder)
        self._folder = folder
        words = {"folder": folder, "program": program("miniupnpd", "miniupnpd")}
        for name, text in (("init", _INIT % words), ("base.conf", _BASE % folder)):
            (folder / name).write_text(text)
        (folder / "init").chmod(0o755)
        (folder / "upnpd").write_text(_UPNPD)
        # The inner address comes first: so it is after a change of the shared one, too.
        for words in ("flush dev up", "add %s/32 dev up" % INNER, "add %s/32 dev up" % EXTERNAL):
            namespace.run(["ip", "address", *words.split()])
        namespace.run(["ip", "route", "add", "5.0.0.0/24", "dev", "up"])
        namespace.run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])

    def follow(self, port_set, *reserved):
        """Have the agent hold miniupnpd to a set, and wait until it is so."""
        before = self._starts()
        words = [str(word) for word in (self._folder, *port_set, *reserved)]
        environment = ["env", "PYTHONPATH=%s" % micropython.ROOT]
        done = self._namespace.run([*environment, sys.executable, "-c", _FOLLOW, *words])
        assert done.stdout == "[]\n"
        until(lambda: self._starts() == before + 1 and self._listens(), "miniupnpd to start anew")

    def start_alone(self):
        """As on a router whose owner has told miniupnpd its address, and nobody the port set."""
        (self._folder / "state").mkdir()
        (self._folder / "state/upnpd").write_text("upnpd.config.external_ip='%s'\n" % EXTERNAL)
        self._namespace.popen([self._folder / "init", "restart"])
        until(self._listens, "miniupnpd to start")

    def _starts(self):
        path = self._folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def ports(self):
        """External ports that it leads to hosts, as the kernel has them."""
        return sorted(port for port, _, _ in self.mappings())


class Host:
    """A host of the LAN that asks for ports."""

    def __init__(self, namespace):
        self._namespace = namespace

    def _ask(self, kind, request):
        words = [sys.executable, "-c", _ASK, kind, request.hex()]
        return bytes.fromhex(self._namespace.run(words, timeout=30).stdout)

    def address(self):
        """The external address, by NAT-PMP."""
        _, _, result, _, address = struct.unpack(">BBHI4s", self._ask("udp", bytes(2)))
        assert result == 0
        return socket.inet_ntoa(address)

    def nat_pmp(self, port):
        """The port that NAT-PMP gives for a suggested one; None for a refusal."""
        request = struct.pack(">BBHHHI", 0, 2, 0, 3000 + port % 999, port, 3600)
        found = struct.unpack(">BBHIHHI", self._ask("udp", request))
        return found[5] if found[2] == 0 else None

    def pcp(self, port, *options):
        """(result code, address, port) that PCP gives for a suggested port."""
        request = struct.pack(">BBHI", 2, 1, 0, 3600) + _mapped(HOST)
        request += b"nonce4567890" + struct.pack(">B3xHH", 6, 3000 + port % 999, port)
        request += _mapped("0.0.0.0") + b"".join(options)
        answer = self._ask("udp", request)
        return answer[3], socket.inet_ntoa(answer[56:60]), struct.unpack_from(">H", answer, 42)[0]

    def upnp(self, action, port, version=1):
        """The port that UPnP gives, or "error" and its number."""
        values = {
            "NewRemoteHost": "",
            "NewExternalPort": port,
            "NewProtocol": "TCP",
            "NewInternalPort": 3000 + port % 999,
            "NewInternalClient": HOST,
            "NewEnabled": 1,
            "NewPortMappingDescription": "test",
            "NewLeaseDuration": 3600,
        }
        arguments = "".join("<%s>%s</%s>" % (name, values[name], name) for name in values)
        answer = self._soap(action, arguments, version)
        error = re.search("<errorCode>(.*)</errorCode>", answer)
        if error:
            return "error " + error.group(1)
        assert " 200 OK" in answer, answer
        found = re.search("<NewReservedPort>(.*)</NewReservedPort>", answer)
        return int(found.group(1)) if found else port

    def upnp_address(self):
        """The external address, by UPnP."""
        answer = self._soap("GetExternalIPAddress", "", 1)
        return re.search("<NewExternalIPAddress>(.*)</NewExternalIPAddress>", answer).group(1)

    def _soap(self, action, arguments, version):
        service = _SERVICE % version
        body = _SOAP % {"action": action, "service": service, "arguments": arguments}
        head = 'POST /ctl/IPConn HTTP/1.1\r\nHost: %s:5000\r\nSOAPAction: "%s#%s"\r\n'
        head = head % (SERVER, service, action)
        head += "Content-Type: text/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        return self._ask("tcp", (head % len(body) + body).encode()).decode()


def _mapped(address):
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


PREFER_FAILURE = b"\x02\x00\x00\x00"


@pytest.fixture
def router(operator, home, tmp_path):
    """miniupnpd on a router that has OWN; one of its ports is a forward's."""
    made = Router(operator, tmp_path)
    made.follow(OWN, FORWARDED)
    return made


@pytest.fixture
def host(router, home):
    return Host(home)


def test_issue_465_a_port_of_the_set_is_granted_with_the_shared_address(router, host):
    assert host.upnp("AddPortMapping", 40961) == 40961
    assert host.nat_pmp(40962) == 40962
    assert host.pcp(40963) == (0, EXTERNAL, 40963)
    assert router.ports() == [40961, 40962, 40963]
    assert host.address() == host.upnp_address() == EXTERNAL


def test_issue_465_a_port_outside_of_the_set_is_refused(router, host):
    """And one that the user's own forward has."""
    for port in (8080, 40959, 41024, 65535, FORWARDED):
        assert host.upnp("AddPortMapping", port) == "error 606", port
        assert host.pcp(port, PREFER_FAILURE)[0] != 0, port
    assert router.ports() == []


def test_issue_465_alone_it_gives_ports_that_are_a_neighbours(operator, home, tmp_path):
    """What the host is told is untrue: no lwAFTR sends these ports here."""
    router, host = Router(operator, tmp_path), Host(home)
    router.start_alone()
    assert host.upnp("AddPortMapping", 8080) == 8080
    assert host.pcp(65535, PREFER_FAILURE) == (0, EXTERNAL, 65535)
    assert router.ports() == [8080, 65535]


def test_issue_465_who_takes_any_port_gets_one_of_the_set(router, host):
    found = {host.upnp("AddAnyPortMapping", 8080, version=2), host.nat_pmp(9090)}
    code, address, port = host.pcp(7070)
    assert (code, address) == (0, EXTERNAL)
    found.add(port)
    assert len(found) == 3 and FORWARDED not in found
    assert [port for port in found if not portset.contains(OWN, port)] == []
    assert router.ports() == sorted(found)


def test_issue_465_it_follows_a_changed_set(router, host):
    assert host.upnp("AddPortMapping", 40961) == 40961
    router.follow(OTHER)
    assert router.ports() == [], "what it gave of the old set is gone, though its file has it"
    assert host.upnp("AddPortMapping", 40961) == "error 606"
    assert host.upnp("AddPortMapping", 50001) == 50001
    assert host.pcp(50002) == (0, OTHER.address, 50002)
    assert host.address() == host.upnp_address() == OTHER.address


def test_a_mapping_of_the_set_outlives_a_change_beside_it(router, host):
    assert host.upnp("AddPortMapping", 40961) == 40961
    router.follow(OWN, FORWARDED, 40980)
    assert router.ports() == [40961]
    assert host.upnp("AddPortMapping", 40980) == "error 606"


def test_what_is_mapped_is_reached_from_outside(router, host, internet, home):
    """Also after a start with empty chains."""
    internal = 3000 + 40961 % 999
    listener = (
        "import socket; s = socket.create_server(('', %d))\nwhile 1: s.accept()[0].send(b'x')"
    )
    home.popen([sys.executable, "-c", listener % internal])
    home.add_route("default", SERVER)
    internet.put_address("eth0", "5.0.0.2/24")
    assert host.upnp("AddPortMapping", 40961) == 40961
    assert until(lambda: _reaches(internet, 40961), "the host of the LAN")
    router.follow(OWN, FORWARDED, 40980)
    assert until(lambda: _reaches(internet, 40961), "the host of the LAN")
    assert not _reaches(internet, 40962)


def _reaches(namespace, port):
    client = "import socket; print(socket.create_connection(('%s', %d), 2).recv(1))"
    words = [sys.executable, "-c", client % (EXTERNAL, port)]
    return "x" in namespace.run(words, check=False).stdout
