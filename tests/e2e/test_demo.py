"""`make demo`, once: exit code, every figure of result.json, the report and the captures."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.micropython import ROOT
from tests.support.tshark import tshark_pcp_report

ROUTER = "2001:db8:c0de::2"
SETS = ("granted", "after_power_cut", "after_lwaftr_loss", "default_after_loss")
TRUE = (
    "ok",
    "same_after_power_cut",
    "same_after_lwaftr_loss",
    "tcp_ok",
    "udp_ok",
    "icmp_ok",
    "http_ok",
    "flows_surviving_renewal",
    "flows_surviving_lwaftr_loss",
    "foreign_packet_refused",
)
FALSE = ("binding_after_release", "state_after_release")
ZERO = (
    "packets_outside_set",
    "captured_outside_set",
    "guards_dropped",
    "flash_writes_per_renewal",
    "flash_sectors_per_renewal",
    "store_writes_by_renewals",
    "reconfigurations_by_renewals",
    "network_events_during_renewals",
)
# The least and the most that a run may measure, however busy the machine is.
RANGES = {
    "packets_inside_set": (100, 100000),
    "packets_in": (100, 100000),
    "packets_while_unknown": (0, 1000),
    "first_request_ms": (1, 20000),
    "response_to_nat_ms": (1, 20000),
    "first_request_ms_after_power_cut": (1, 20000),
    "response_to_nat_ms_after_power_cut": (1, 20000),
    "agent_rss_kb": (1000, 16000),
    "agent_private_kb": (500, 16000),
    "router_memory_kb": (20000, 65536),
    "flash_writes_config": (1, 1000),
    "flash_writes_first_grant": (1, 1000),
    "renewals": (3, 3),
    "nonces_used": (1, 1),
    "foreign_packets_sent": (1, 1),
    "foreign_packets_counted": (1, 1),
    "lifetime_s": (120, 86400),
    "mtu": (1280, 1460),
}
SECONDS = (
    "isp_boot_s",
    "cpe_boot_s",
    "cpe_reboot_s",
    "power_cut_to_grant_s",
    "lwaftr_loss_to_grant_s",
    "total_s",
)

pytestmark = pytest.mark.timeout(900)  # a first run builds the guests' disks


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """(folder, what the demo printed) of one run that ended well."""
    folder = tmp_path_factory.mktemp("demo")
    environment = {key: value for key, value in os.environ.items() if key != "OPENWRT_IMAGE"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "qemu-lab/demo.py"), "--out", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def result(demo):
    return json.loads((demo[0] / "result.json").read_text())


def test_every_step_has_a_tick_and_a_time(demo, result):
    ticks = re.findall(r"^(?:✔|ok) (.+)  (\d+\.\d) s$", demo[1], re.MULTILINE)
    assert [title for title, _ in ticks][-9:] == [step["title"] for step in result["steps"]]
    for (_, shown), step in zip(ticks[-9:], result["steps"]):
        assert float(shown) == pytest.approx(step["seconds"], abs=0.2)
    assert sum(step["seconds"] for step in result["steps"]) == pytest.approx(
        result["total_s"], abs=5
    )


def test_the_sets(result):
    for name in SETS:
        assert sorted(result[name]) == ["address", "first_port", "size"]
    assert result["granted"] == result["after_power_cut"] == result["after_lwaftr_loss"]
    assert result["granted"]["size"] == 1024
    # The proof of "same again": nothing but the suggestion leads to this set.
    assert result["default_after_loss"] != result["granted"]
    assert result["granted"]["first_port"] > 1024


@pytest.mark.parametrize("name", TRUE)
def test_what_must_be_true(result, name):
    assert result[name] is True


@pytest.mark.parametrize("name", FALSE)
def test_what_must_be_false(result, name):
    assert result[name] is False


@pytest.mark.parametrize("name", ZERO)
def test_what_must_be_zero(result, name):
    assert type(result[name]) in (int, float)
    assert result[name] == 0


@pytest.mark.parametrize("name", RANGES)
def test_figures_are_whole_and_sane(result, name):
    least, most = RANGES[name]
    assert type(result[name]) is int
    assert least <= result[name] <= most


@pytest.mark.parametrize("name", SECONDS)
def test_times_are_positive(result, name):
    assert type(result[name]) is float
    assert result[name] > 0


def test_texts(result):
    assert re.fullmatch(r"micropython 1\.\d+\.\d+", result["runtime"])
    assert re.match(r"\d+\.\d+", result["kernel"])
    assert result["router"] == ROUTER
    assert result["traces_after_release"] == []
    for name in ("nftables", "iproute2", "qemu"):
        assert re.match(r"v?\d+\.\d+", result["versions"][name])
    assert all(result["ports_used"][name] > 0 for name in ("tcp", "udp", "icmp"))


def test_renewals_keep_their_distance(result):
    times = result["renewals_at_s"]
    assert len(times) == result["renewals"]
    assert all(later - earlier >= 3.9 for earlier, later in zip(times, times[1:]))


def test_both_counts_agree(result):
    seen = result["packets_inside_set"] + result["packets_while_unknown"]
    assert result["captured_inside_set"] == seen


def test_private_memory_is_part_of_all(result):
    assert result["agent_private_kb"] < result["agent_rss_kb"]


def test_the_report_needs_no_network_and_shows_the_set(demo, result):
    page = (demo[0] / "report.html").read_text()
    granted = result["granted"]
    assert "http:" not in page
    assert "https:" not in page
    assert not re.search(r"\b(src|href)\s*=|@import|<script|<link", page)
    assert granted["address"] in page
    last = granted["first_port"] + granted["size"] - 1
    assert f"{granted['first_port']}\u2013{last}" in page
    assert page.count("<svg") == 4


def test_tshark_finds_no_fault_in_the_messages_and_names_port_set(demo, result):
    report = tshark_pcp_report(demo[0] / "access.pcap")
    assert report.malformed == []
    granted = result["granted"]
    answers = [one for one in report.port_sets if one[1] == granted["size"]]
    # Granted, after the power cut, after the loss, three renewals, release.
    assert len(answers) >= 7
    assert (answers[0][1], answers[0][2]) == (granted["size"], granted["first_port"])
    assert ROUTER in {message["source"] for message in report.messages}


@pytest.mark.parametrize("name", ["access", "home"])
def test_tshark_reads_every_capture(demo, name):
    done = subprocess.run(
        ["tshark", "-r", str(demo[0] / f"{name}.pcap"), "-Y", "_ws.malformed"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
