"""The power goes at a bad moment: the same line comes back, and the flash is never damaged."""

import random
import time

import pytest
from cpelab import writelog

from cpe_agent import store
from tests.e2e.scenarios.home import (
    NOT_AUTHORIZED,
    POOL,
    ROUTER,
    Home,
    held,
    nonces,
    requests,
    results,
)
from tests.support.tshark import tshark_pcp_report

SEED = 7753
ANSWER_DELAY = 3000  # ms; time enough for a cut between request and grant
DELAYED = {"delay_min": ANSWER_DELAY, "delay_max": ANSWER_DELAY}


def before_the_request(home, rng):
    home.begin(wait=False)
    time.sleep(rng.uniform(0, 0.8))
    return []


def between_request_and_grant(home, rng):
    home.begin(wait=False, faults=DELAYED)
    sent = home.wait_request()
    time.sleep(rng.uniform(0, ANSWER_DELAY / 1000 - 1))
    return sent


def right_after_the_grant(home, rng):
    home.begin(wait=False)
    sent = home.wait_request()
    time.sleep(rng.uniform(0, 0.7))
    return sent


def during_a_renewal(home, rng):
    home.begin()
    home.lwaftr("fault", **DELAYED)
    home.lab.cpe.run("sleep 4; cpe-agent renew")
    sent = home.wait_request()
    time.sleep(rng.uniform(0, ANSWER_DELAY / 1000 - 1))
    return sent


MOMENTS = (
    before_the_request,
    between_request_and_grant,
    right_after_the_grant,
    during_a_renewal,
)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_power_cut_costs_neither_line_nor_nonce(home, moment):
    rng = random.Random(f"{SEED} {moment.__name__}")
    sent = moment(home, rng)
    given = home.bindings() if requests(sent) else []
    home.lab.cpe.reset()
    home.lwaftr("fault", reset=True)
    after = home.wait_up()
    home.talk(after)
    if given:
        assert [held(after)] == given
    sent += home.messages()
    if moment is not before_the_request:
        assert len(nonces(sent)) == 1
    assert NOT_AUTHORIZED not in results(sent)


def test_tshark_finds_no_fault_in_these_messages(home):
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 10


# ------------------------------------------------------------ every write to the flash


FIRST_PORTS = (40960, 20480, 10240, 51200)  # where the lwAFTR moves the set, one by one


@pytest.fixture
def written(make_lab, tmp_path):
    """The log of all writes to the flash disk in a first grant and changes of set; the sets."""
    log = tmp_path / "flash.log"
    home = Home(make_lab(flash_log=log, capture=False))
    sets = [held(home.begin())]
    for port in FIRST_PORTS:
        home.lwaftr("update", client=ROUTER, address=POOL, first_port=port)
        found = home.wait_status(lambda found, port=port: found.get("first_port") == port)
        sets.append(held(found))
    home.lab.cpe.run("sync")
    home.lab.cpe.kill()
    return log, sets


def states(log, work):
    """What a router finds after a power cut, for each prefix of the writes."""
    for write in writelog.replay(writelog.base_path(log), log, work):
        if write is not None and not write.size:
            continue  # a flush alone
        with writelog.inspected(work) as disk:
            assert disk.fsck_code < 4
            yield disk.read("/cpe-agent/state")


def test_every_prefix_of_the_flash_writes_has_the_old_state_or_the_new(written, tmp_path):
    log, sets = written
    seen, nonce = [], set()
    count = 0
    for content in states(log, tmp_path / "work.img"):
        count += 1
        found = "absent"
        if content is not None:
            [(_, state)] = store.decode(content.decode())  # raises Damaged
            found = state.port_set and tuple(state.port_set)
            nonce.add(state.nonce)
        if not seen or seen[-1] != found:
            seen.append(found)
    print(f"{count} prefixes replayed, states seen: {seen}")
    # The nonce before the first request, then each set in order; never back, never damaged.
    assert seen == ["absent", None, *sets]
    assert len(nonce) == 1
    assert count >= 40
