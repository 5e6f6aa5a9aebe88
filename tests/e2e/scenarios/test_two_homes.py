"""Two homes with real agents share one public address at the lab's lwAFTR.

Their LANs have the same addresses, as homes do; only the port sets tell them apart.
"""

import itertools
import time
from collections import namedtuple

import pytest

from tests.e2e.conftest import start, stop
from tests.e2e.scenarios.home import PATIENCE, POOL, Home, SecondHome, held

SERVER_PORT = 8080  # of a server in a LAN
NOBODY = 60000  # a port that is in nobody's set
STRAYS = 5
MARKS = (f"stray-{number:03d}." for number in itertools.count())

# first, second: Home and SecondHome. ours, theirs: their sets, as of held(). hairpinning: the
# lwAFTR's switch.
Homes = namedtuple("Homes", ("first", "second", "ours", "theirs", "hairpinning"))

FORWARD = """
table ip lab_forward
delete table ip lab_forward
table ip lab_forward {{
    chain dstnat {{
        type nat hook prerouting priority -101;
        ip daddr {address} meta l4proto {{ tcp, udp }} th dport {port} dnat to 192.168.1.10:{server}
    }}
    chain hairpin {{
        type nat hook postrouting priority 98;
        iifname "eth1" oifname "eth1" ct status dnat masquerade
    }}
}}
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    lab = start(tmp_path_factory.mktemp("two"), homes=2)
    yield Home(lab), SecondHome(lab)
    stop(lab)


def hairpinning(*values):
    """Marks a test with what the lwAFTR's switch of that name is; otherwise it is on."""
    names = {True: "hairpinning", False: "no-hairpinning"}
    ids = [names[value] for value in values]
    return pytest.mark.parametrize("homes", values, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module", params=[True], ids=["hairpinning"])
def homes(two, request):
    """Both homes in use, each with a forward to its LAN host's server. No packet of any test may
    come to the lwAFTR from outside of the sets."""
    first, second = two
    second.clean()
    ours = held(first.begin(data_plane={"hairpinning": request.param}))
    theirs = held(second.join())
    for home, own in ((first, ours), (second, theirs)):
        rules = FORWARD.format(address=POOL, port=forwarded(own), server=SERVER_PORT)
        home.cpe.put("/tmp/forward.nft", rules)
        home.cpe.check("nft -f /tmp/forward.nft")
    yield Homes(first, second, ours, theirs, request.param)
    assert not any(first.lwaftr("counters")["outside_set"].values())
    assert first.totals()["unknown_source"] == 0


def forwarded(own):
    """The port of a set that is forwarded."""
    return own[1] + own[2] // 2


def is_in(port, own):
    return own[1] <= port < own[1] + own[2]


def serve(home):
    """A server on the LAN's host; a Job."""
    job = home.lab.host_job(f"serve {SERVER_PORT}", home.lan)
    end = time.monotonic() + PATIENCE
    while "ok" not in job.stdout():
        assert time.monotonic() < end, "no server in the LAN"
    return job


def call(home, protocol, port):
    """Call the shared address from the LAN; (did it answer, as whom it saw us)."""
    good, lines = home.lab.host(f"{protocol} {POOL} --port {port}", home.lan)
    return good, lines[-1].get("seen")


def passed(home, link, mark):
    """How many packets with a mark went over a link."""
    return home.lab.links[link].pcap.read_bytes().count(mark.encode())


def strays(homes, port, namespace):
    """Send some datagrams to a port of the shared address; how many packets that made on our access
    link, and on the neighbour's."""
    mark = next(MARKS)
    command = f"strays --host {POOL} --port {port} --count {STRAYS} --mark {mark}"
    homes.first.probe(command, f"ip netns exec {namespace}")
    homes.first.talk()  # what comes later, through the same queues
    homes.second.talk()
    return passed(homes.first, "access", mark), passed(homes.first, "access2", mark)


def test_each_home_has_a_set_of_its_own_on_the_same_address(homes):
    assert homes.ours[0] == homes.theirs[0] == POOL
    ports = [set(range(own[1], own[1] + own[2])) for own in (homes.ours, homes.theirs)]
    assert not ports[0] & ports[1]
    assert homes.first.bindings() == [homes.ours]
    assert homes.second.bindings() == [homes.theirs]
    homes.first.talk(homes.first.status())
    homes.second.talk(homes.second.status())


def test_both_ping_with_the_same_identifier(homes):
    for home in (homes.first, homes.second):
        good, _ = home.lab.host("ping 198.51.100.1 --count 2 --id 777", home.lan)
        assert good


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_lan_host_reaches_the_neighbours_server_by_the_shared_address(homes, protocol):
    pairs = (
        (homes.first, homes.ours, homes.second, homes.theirs),
        (homes.second, homes.theirs, homes.first, homes.ours),
    )
    for caller, own, called, others in pairs:
        server = serve(called)
        good, seen = call(caller, protocol, forwarded(others))
        server.stop()
        assert good
        assert seen[0] == POOL
        assert is_in(seen[1], own)


@hairpinning(True, False)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_lan_host_reaches_its_own_forward_and_the_lwaftr_sees_nothing(homes, protocol):
    before = homes.first.totals()
    server = serve(homes.first)
    good, _ = call(homes.first, protocol, forwarded(homes.ours))
    server.stop()
    assert good
    assert homes.first.totals() == before


def test_udp_hole_punching_between_the_homes(homes):
    homes.first.lab.isp.run("rm -f /tmp/punch-*")
    names = (("lan", "a", "b"), ("lan2", "b", "a"))
    jobs = [
        homes.first.lab.isp.spawn(
            f"ip netns exec {lan} python3 /tmp/probe.py punch --timeout 30 "
            f"--mine /tmp/punch-{mine} --friend /tmp/punch-{friend}"
        )
        for lan, mine, friend in names
    ]
    seen = [job.wait().json_lines()[-1] for job in jobs]
    assert all(one["heard"] for one in seen), seen
    assert seen[0]["friend"] == seen[1]["mine"]
    assert is_in(seen[0]["mine"][1], homes.ours)
    assert is_in(seen[1]["mine"][1], homes.theirs)


@hairpinning(False)
def test_where_the_lwaftr_does_not_hairpin_nothing_comes_to_the_neighbour(homes):
    server = serve(homes.second)
    assert strays(homes, forwarded(homes.theirs), "lan") == (STRAYS, 0)
    server.stop()


# To whom: port, and how often each packet is seen on our access link and on theirs.
CIRCLES = {
    "a-port-of-nobody": (lambda homes: NOBODY, (1, 0)),
    "a-port-of-the-neighbour": (lambda homes: homes.theirs[1], (1, 1)),
    "a-port-of-our-own": (lambda homes: homes.ours[1], (2, 0)),
}


@hairpinning(True, False)
@pytest.mark.parametrize("target", CIRCLES)
def test_a_packet_that_nobody_takes_does_not_circle(homes, target):
    port, seen = CIRCLES[target]
    if not homes.hairpinning:
        seen = (1, 0)
    assert strays(homes, port(homes), "lan") == tuple(STRAYS * times for times in seen)


def test_a_packet_from_the_internet_that_nobody_takes_does_not_circle(homes):
    assert strays(homes, NOBODY, "internet") == (0, 0)
    assert strays(homes, homes.ours[1], "internet") == (STRAYS, 0)
    assert strays(homes, homes.theirs[1], "internet") == (0, STRAYS)


def test_a_ping_of_the_shared_address_is_nobodys_and_does_not_circle(homes):
    """An echo request names no port but its own identifier, by which it comes back to its sender:
    which home is meant nobody can tell (RFC 7596 8.1)."""
    before = homes.first.totals()
    good, _ = homes.first.lab.host(f"--timeout 2 ping {POOL} --count 3", "lan")
    assert not good
    sent = homes.first.totals()["packets_inside_set"] - before["packets_inside_set"]
    assert sent == 3
