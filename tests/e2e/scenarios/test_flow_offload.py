"""Software flow offload on the router: packets of a known flow go from card to card, past all
chains and so past the guards. They stay inside the port set by what connection tracking knows."""

import re
import time

import pytest

from tests.e2e.scenarios.home import PATIENCE, POOL, ROUTER, held

FIRST_PORT = 40960  # of the set that the lwAFTR moves the home to
LEAST = 20  # packets that tell offloaded from not

# As fw4 does with 'option flow_offloading'. What passes the chain is counted first.
RULES = """
table inet lab_offload {
    flowtable ft { hook ingress priority 0; devices = { eth1, lw4o6 }; }
    chain forward {
        type filter hook forward priority 0;
        meta l4proto { tcp, udp } counter
        %s
    }
}
"""
OFFLOAD = "meta l4proto { tcp, udp } flow add @ft"


@pytest.fixture(params=[True, False], ids=["offload", "no-offload"])
def offload(request):
    return request.param


@pytest.fixture
def line(home, offload):
    """Status of a line in use, with flow offload on or off."""
    found = home.begin()
    home.cpe.put("/tmp/offload.nft", RULES % (OFFLOAD if offload else ""))
    home.cpe.check("nft -f /tmp/offload.nft")
    return found


def slow(home):
    """Packets that passed the router's chain for forwarded ones."""
    shown = home.cpe.check("nft list chain inet lab_offload forward")
    return int(re.search(r"packets (\d+)", shown).group(1))


def lines(job):
    return len(job.stdout().splitlines())


def wait_for(wanted, text):
    end = time.monotonic() + PATIENCE
    while not wanted():
        assert time.monotonic() < end, text


def flows(home):
    return home.cpe.run("conntrack -L -p udp; conntrack -L -p tcp").stdout.splitlines()


def is_offloaded(home):
    return any("[OFFLOAD]" in flow for flow in flows(home))


def is_inside(port, one):
    return one[1] <= port < one[1] + one[2]


def test_packets_stay_inside_the_set(home, line, offload):
    connection = home.connection(interval=0.02)
    wait_for(lambda: is_offloaded(home) or not offload, "no flow is offloaded")
    before, count = slow(home), lines(connection)
    wait_for(lambda: lines(connection) >= count + LEAST, "the connection stands still")
    assert (slow(home) - before < LEAST) == offload
    connection.stop()
    home.talk(line)
    assert not any(home.lwaftr("counters")["outside_set"].values())


def test_a_set_change_ends_the_flows_of_the_old_set(home, line, offload):
    stream, connection = home.stream(interval=0.02), home.connection(interval=0.1)
    wait_for(lambda: is_offloaded(home) or not offload, "no flow is offloaded")
    home.lwaftr("update", client=ROUTER, address=POOL, first_port=FIRST_PORT)
    after = home.wait_status(lambda found: found.get("first_port") == FIRST_PORT)
    wait_for(lambda: connection.poll() is not None, "the connection from the old set goes on")
    changed = home.lwaftr("counters")["outside_set"]
    assert not [flow for flow in flows(home) if is_of(flow, held(line))]
    wait_for(lambda: is_offloaded(home) or not offload, "the new set's flow is not offloaded")
    home.talk(after)
    seen = home.measure(stream)
    # The lwAFTR refuses what was sent before the router heard of the change; nothing came later.
    assert home.lwaftr("counters")["outside_set"] == changed
    old, new = seen["ports"]
    assert is_inside(old, held(line))
    assert is_inside(new, held(after))


def is_of(flow, one):
    """Does a line of conntrack's have the shared address, on a port of a set?"""
    found = re.search(rf"dst={POOL} sport=\d+ dport=(\d+)", flow)
    return found is not None and is_inside(int(found.group(1)), one)
