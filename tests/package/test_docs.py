"""What the handler takes, the agent knows and docs/openwrt.md tells are the same."""

import pathlib
import re

import pytest

from cpe_agent import config, interface

ROOT = pathlib.Path(__file__).resolve().parents[2]
HANDLER = (ROOT / "openwrt-package/cpe-agent/files/lib/netifd/proto/lw4o6.sh").read_text()
DOCS = (ROOT / "docs/openwrt.md").read_text()
# netifd has its own word for these, or knows them itself.
OTHERWISE = {"enabled", "aftr", "source", "device", "default_route", "metric"}


def handed_over():
    (listed,) = re.findall(r'LW4O6_OPTIONS="([^"]*)"', HANDLER)
    return set(listed.replace("\\", "").split()) | {"peeraddr", "server"}


def test_the_handler_hands_over_every_option_that_the_agent_has():
    ours = {name for name, _, _ in config.SOFTWIRE_OPTIONS} - OTHERWISE
    assert handed_over() == ours | {"peeraddr", "ip6addr", "release", "zone", "tunlink"}


@pytest.mark.parametrize("option", sorted(handed_over()))
def test_the_agent_takes_the_option(option):
    texts = {"peeraddr": "2001:db8::1", option: "x"}
    try:
        interface.read("wan4", texts)
    except config.ConfigError as error:
        assert "not known" not in str(error)


@pytest.mark.parametrize("name", sorted(handed_over()))
def test_the_option_is_documented(name):
    assert "\n| `%s`" % name in DOCS


def test_every_code_of_the_handler_is_documented():
    codes = set(re.findall(r"\b([A-Z]+_[A-Z_]+)\b(?= lw4o6_find| lw4o6_resolve)", HANDLER))
    assert codes == {"NO_AFTR", "AFTR_DNS_FAIL", "NO_AGENT"}
    for code in codes | {"INVALID_OPTION", "ONE_SOFTWIRE"}:
        assert "\n| `%s`" % code in DOCS
