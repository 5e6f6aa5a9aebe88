"""How long idle flows keep their ports, as the kernel's own table tells it."""

import itertools
import pathlib
import re

import pytest

from cpe_agent import fw4_table, timeouts
from cpe_agent.backends import fw4
from cpe_agent.plan import Plan
from tests.netns import topology
from tests.netns.test_occupancy import listed
from tests.netns.topology import INTERNET, LAN_HOST, PATIENCE, SHARED

UNDO = pathlib.Path(__file__).parents[2] / "uci-defaults/undo-cpe-agent"
LONG = 10000  # s; what this router's switches say, so that it is seen who has decided
SWITCHES = (
    "udp_timeout",
    "udp_timeout_stream",
    "tcp_timeout_established",
    "tcp_timeout_fin_wait",
    "tcp_timeout_time_wait",
)
DAWDLE = 60  # s; that a busy machine may take from a flow's last packet to the look at it
DNS = 53

_steady_ports = itertools.count(24000)


@pytest.fixture(scope="module")
def patient(shared_home):
    """A router whose switches let flows live long."""
    settings = ["net.netfilter.nf_conntrack_%s=%d" % (one, LONG) for one in SWITCHES]
    shared_home.cpe.sysctl(*settings)
    shared_home.inet.call("serve", DNS, *INTERNET)
    shared_home.lan.call("serve", 79)


@pytest.fixture
def small(home, patient):
    """A home with option flow_timeouts 'small'."""
    home.cpe.call("apply", topology.wanted(topology.OWN, flow_timeouts="small"))
    return home


def left(home, protocol, word):
    """Seconds that the flow of a protocol with that word in its line has left."""
    text = home.cpe.namespace.run(["cat", "/proc/net/nf_conntrack"]).stdout
    lines = [line.split() for line in text.splitlines()]
    (seconds,) = [int(one[4]) for one in lines if one[2] == protocol and word in one]
    return seconds


def is_about(seconds, timeout):
    return timeout - DAWDLE < seconds <= timeout


def talk_udp(home, port):
    assert home.lan.call("ask_udp", [[INTERNET[0], port]], 1, 10, PATIENCE)[0][0]


@pytest.fixture
def connection(home):
    """(port of a server, the client's end is open) until the test ends."""
    port = next(_steady_ports)
    home.inet.call("serve_steady", port)
    yield port
    home.lan.call("scatter", "tcp")


def connect(home, port):
    place = [INTERNET[0], port]
    seen = home.lan.call("gather", "tcp", "tcp", [place], [LAN_HOST], 1, 1, PATIENCE)
    assert None not in seen


def test_flows_live_as_the_kernel_says_unless_the_option_says_otherwise(home, patient, connection):
    talk_udp(home, 80)
    talk_udp(home, DNS)
    connect(home, connection)
    assert is_about(left(home, "udp", "dport=80"), LONG)
    assert is_about(left(home, "udp", "dport=53"), LONG)
    assert is_about(left(home, "tcp", "dport=%d" % connection), LONG)


def test_small_gives_idle_flows_what_the_rfcs_ask_for_and_no_more(small, connection):
    connect(small, connection)
    assert small.lan.call("talk", INTERNET[1], 80, PATIENCE).split()[0] == SHARED  # and closed
    talk_udp(small, 80)
    assert is_about(left(small, "udp", "dport=80"), 120)
    assert is_about(left(small, "tcp", "dport=%d" % connection), 7440)
    assert is_about(left(small, "tcp", "dst=" + INTERNET[1]), 240)
    talk_udp(small, DNS)
    assert left(small, "udp", "dport=53") <= 15


def test_an_answered_flow_lives_no_shorter_than_its_first_packet(small):
    small.lan.call("open_udp", "silent", 0)
    small.lan.call("send_udp", "silent", INTERNET[0], 81)  # nobody answers
    assert is_about(left(small, "udp", "[UNREPLIED]"), 120)
    small.lan.call("close", "silent")


def test_the_routers_own_flows_are_timed_too(small):
    assert small.cpe.call("ask_udp", [[INTERNET[0], 80]], 1, 10, PATIENCE)[0][0]
    assert is_about(left(small, "udp", "dport=80"), 120)


def test_flows_that_do_not_leave_by_the_softwire_are_left_alone(small):
    assert small.cpe.call("ask_udp", [[LAN_HOST, 79]], 1, 10, PATIENCE)[0][0]
    assert small.inet.call("talk", SHARED, 1500, PATIENCE).split()[0] == INTERNET[0]
    assert is_about(left(small, "udp", "dst=" + LAN_HOST), LONG)
    assert is_about(left(small, "tcp", "dport=1500"), LONG)


def test_the_option_is_for_new_flows_and_harms_no_old_one(home, patient):
    talk_udp(home, 80)
    before = listed(home)
    small = topology.wanted(topology.OWN, flow_timeouts="small")
    assert home.cpe.call("apply", small) is True
    assert listed(home) == before
    assert is_about(left(home, "udp", "dport=80"), LONG)
    home.cpe.call("delete_flows", SHARED, 1, 0)
    talk_udp(home, 80)
    assert is_about(left(home, "udp", "dport=80"), 120)
    assert home.cpe.call("apply", topology.wanted(topology.OWN)) is True
    home.cpe.call("delete_flows", SHARED, 1, 0)
    talk_udp(home, 80)
    assert is_about(left(home, "udp", "dport=80"), LONG)


def test_closed_connections_are_no_obstacle_to_new_ones(small):
    """To one place, more connections one after the other than there are ports."""
    few = topology.OWN._replace(size=32)
    small.cpe.call("apply", topology.wanted(few, flow_timeouts="small"))
    peers = [small.lan.call("talk", INTERNET[2], 80, PATIENCE).split()[0] for _ in range(96)]
    assert peers.count(SHARED) >= 95  # the kernel's way to take a closed one's port is a try


@pytest.fixture
def in_fw4(home):
    """in_fw4(): what nft lists of a table as fw4's, with our rules in it."""

    def listing():
        return home.cpe.namespace.run(["nft", "list", "table", "inet", "fw4"]).stdout

    wanted = topology.wanted(topology.OWN, flow_timeouts="small")
    wanted.update(port_sets=(topology.OWN,), open_sets=(topology.OWN,))
    home.cpe.nft(fw4_table.check(fw4.fragments(Plan(**wanted))))
    yield listing
    home.cpe.nft("delete table inet fw4\n")


def test_nft_takes_them_in_fw4s_table_too(in_fw4):
    for name in timeouts.objects(timeouts.SMALL, fw4_table.PREFIX):
        assert "ct timeout %s {" % name in in_fw4()
        assert 'ct timeout set "%s"' % name in in_fw4()


def test_removal_of_the_package_leaves_nothing_of_them_there(home, in_fw4):
    home.cpe.nft("flush table inet fw4\n")  # as fw4's reload does
    assert "ct timeout cpe_agent_small_tcp {" in in_fw4()
    (remove_rules,) = re.findall(r"^remove_rules\(\) \{$.*?^\}$", UNDO.read_text(), re.M | re.S)
    home.cpe.namespace.run(["sh", "-c", remove_rules + "\nremove_rules; true"])
    assert "chain srcnat" in in_fw4()
    assert "cpe_agent" not in in_fw4()
