"""A server that gives less than asked for, refuses, is silent or talks garbage."""

import pytest

from tests.e2e.scenarios.home import held
from tests.support.tshark import tshark_pcp_report

NO_RESOURCES, USER_EX_QUOTA, MALFORMED_OPTION = 8, 10, 6
BAD_PATH = {"loss": 50, "duplicate": 30, "reorder": 50, "delay_max": 300, "seed": 7753}


@pytest.mark.parametrize(
    ("faults", "size"),
    [({"fewer_ports": 100}, 100), ({"fewer_ports": 1}, 1), ({"ignore_port_set": True}, 1)],
)
def test_fewer_ports_than_asked_for_work(home, faults, size):
    status = home.begin(faults=faults)
    assert status["size"] == size
    home.talk(status)
    first, last = status["first_port"], status["last_port"]
    assert f"{first}-{last} ({size})" in home.lab.cpe.check("cpe-agent status")
    assert ("one port only" in home.log()) == (size == 1)
    assert home.totals()["packets_outside_set"] == 0


def test_refusals_are_named_and_end(home):
    home.begin(wait=False, faults={"refuse": NO_RESOURCES, "refuse_lifetime": 1})
    found = home.wait_error("NO_RESOURCES", "no ports left", "asking again in")
    assert found["state"] != "up"
    assert not home.has_softwire()
    home.lwaftr("fault", refuse=MALFORMED_OPTION)
    home.wait_error("MALFORMED_OPTION", "gives port sets")
    home.lwaftr("fault", refuse=0)
    home.talk(home.wait_up())


def test_a_refused_renewal_leaves_the_line_alone(home):
    before = home.begin(fresh=False)
    connection = home.connection()
    home.lwaftr("fault", refuse=USER_EX_QUOTA, refuse_lifetime=1)
    home.renew()
    refused = home.wait_error("USER_EX_QUOTA", "all the ports that it may have")
    assert refused["state"] == "up"
    assert held(refused) == held(before)
    home.lwaftr("fault", refuse=0)
    after = home.wait_up()
    assert held(after) == held(before)
    assert after["counts"]["reconfigurations"] == before["counts"]["reconfigurations"]
    assert home.still_carries(connection)
    connection.stop()


def test_a_silent_renewal_leaves_the_line_alone(home):
    before = home.begin(fresh=False)
    connection = home.connection()
    home.lwaftr("fault", silence=True)
    home.renew()
    silent = home.wait_error("is silent after 3 requests", "UDP port 5351")
    assert silent["state"] == "up"
    assert held(silent) == held(before)
    home.talk(before)
    home.lwaftr("fault", silence=False)
    after = home.wait_up()
    assert held(after) == held(before)
    assert after["counts"]["reconfigurations"] == before["counts"]["reconfigurations"]
    assert home.still_carries(connection)
    connection.stop()


def test_a_silent_server_is_named_and_asked_until_it_speaks(home):
    home.begin(wait=False, faults={"silence": True})
    home.wait_error("is silent after", "check that it is the right address")
    assert "is silent after" in home.lab.cpe.run("cpe-agent status").stdout
    home.lwaftr("fault", silence=False)
    home.talk(home.wait_up())


def test_a_bad_path_only_takes_longer(home):
    home.talk(home.begin(faults=BAD_PATH))
    before = home.status()
    home.lwaftr("fault", **BAD_PATH)
    home.renew()
    after = home.wait_renewed(before)
    assert held(after) == held(before)


def test_tshark_finds_no_fault_in_these_messages(home):
    """Before the garbage that comes next."""
    report = tshark_pcp_report(home.lab.links["access"].pcap)
    assert report.malformed == []
    assert len(report.port_sets) > 10


def test_garbled_answers_are_named_and_survived(home):
    home.begin(wait=False, faults={"garble": 100})
    garbled = home.wait_error("sends what is no answer to us")
    assert garbled["state"] != "up"
    assert not home.has_softwire()
    home.lwaftr("fault", garble=0)
    home.talk(home.wait_up())
