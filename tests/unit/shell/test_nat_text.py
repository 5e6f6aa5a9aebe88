"""The rules as text: exactly these commands for these options, and nft takes each of them.

Each file of nat/ is one case, in the style of firewall4's tests: the set and the MTU of the
softwire, options as in /etc/config/cpe-agent, and the commands that are expected.
"""

import pathlib
import re

import pytest

from cpe_agent import config, own_table, plan, portset
from cpe_agent.nft import parse_counters
from tests.support import netns

CASES = sorted(pathlib.Path(__file__).parent.joinpath("nat").glob("*.txt"))
_PARTS = re.compile(r"-- (set|options|expected) --\n(.*?)-- end --\n", re.S)
SET = portset.PortSet("192.0.2.3", 37056, 32)


def parts(path):
    return dict(_PARTS.findall(path.read_text()))


def text_for(case):
    address, first, size, mtu = case["set"].split()
    lines = ["config softwire", " option aftr '2001:db8::1'", case["options"]]
    options = config.parse("\n".join(lines)).softwire
    return plan.nat_text(options, portset.PortSet(address, int(first), int(size)), int(mtu))


def nat_text(port_set, **options):
    return text_for(
        {
            "set": "%s %d %d 1460" % port_set,
            "options": "\n".join("option %s '%s'" % item for item in options.items()),
        }
    )


@pytest.fixture(scope="module")
def machine():
    """A namespace with no rules."""
    with netns.Network() as net:
        yield net.namespace("machine")


@pytest.fixture
def nft(machine):
    """nft in a namespace: feeds it commands, or gives a listing."""

    def run(*words, text=None):
        words = ["nft", *words] if text is None else ["nft", *words, "-f", "-"]
        return machine.run(words, input=text).stdout

    run("flush", "ruleset")
    return run


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_commands_are_these(path):
    case = parts(path)
    assert text_for(case) == case["expected"]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_nft_takes_them_and_taking_them_twice_changes_nothing(nft, path):
    text = parts(path)["expected"]
    nft("-c", text=text)
    assert nft("list", "tables") == "", "a check changes nothing"
    nft(text=text)
    first = nft("list", "table", "ip", "cpe_agent")
    assert first.count("counter outside_out {") == 1
    nft(text=text)
    assert nft("list", "table", "ip", "cpe_agent") == first


def test_all_cases_together_leave_the_last_one_alone(nft):
    """One set after the other, as the server may give them: no rule of an earlier one stays."""
    texts = [parts(path)["expected"] for path in CASES]

    def rules():
        chains = nft("list", "table", "ip", "cpe_agent").split("\tchain ")[1:]
        chains = sorted(chain.strip("\n\t }") for chain in chains)
        return [chain for chain in chains if "\n" in chain]  # some have no rules

    listings = []
    for text in texts:
        nft("flush", "ruleset")
        nft(text=text)
        listings.append(rules())
    for text, listing in zip(texts, listings):
        nft(text=text)
        assert rules() == listing
    assert len(set(map(str, listings))) == len(texts)


def test_counters_survive_a_changed_set(nft):
    nft(text=nat_text(SET))
    nft("delete", "table", "ip", "cpe_agent")
    nft(text="add table ip cpe_agent\n")
    numbers = {"outside_out": 7, "outside_in": 11, "looped": 13, "over_limit": 17, "refused": 19}
    for name, number in numbers.items():
        line = "add counter ip cpe_agent %s { packets %d bytes 1 }\n" % (name, number)
        nft(text=line)
    nft(text=nat_text(SET._replace(first=40000)))
    listing = nft("list", "counters", "table", "ip", "cpe_agent")
    assert parse_counters(listing) == numbers


def test_no_guard_is_without_its_nat_for_a_moment(nft):
    """The old rules are replaced in one transaction: a bad line leaves all of them in place."""
    nft(text=nat_text(SET))
    before = nft("list", "table", "ip", "cpe_agent")
    bad = nat_text(SET._replace(first=40000)) + "add rule ip cpe_agent no_such_chain drop\n"
    with pytest.raises(RuntimeError, match="No such file"):
        nft(text=bad)
    assert nft("list", "table", "ip", "cpe_agent") == before


def test_other_tables_are_left_alone(nft):
    nft(text="table ip theirs { chain srcnat { type nat hook postrouting priority srcnat; }; }\n")
    theirs = nft("list", "ruleset")
    nft(text=nat_text(SET))
    nft(text=own_table.removal())
    assert nft("list", "ruleset") == theirs


def test_the_table_can_be_removed_whether_it_is_there_or_not(nft):
    nft(text=own_table.removal())
    nft(text=nat_text(SET))
    nft(text=own_table.removal())
    nft(text=own_table.removal())
    assert nft("list", "tables") == ""


def test_the_mark_is_found_in_the_listing_and_tells_sets_apart(nft):
    nft(text=nat_text(SET))
    mark = re.search(r"cpe-agent [0-9a-f]{8}", nat_text(SET)).group()
    assert nft("list", "table", "ip", "cpe_agent").count('comment "%s"' % mark) == 1
    other = re.search(r"cpe-agent [0-9a-f]{8}", nat_text(SET, mss_clamp="0")).group()
    assert other != mark


@pytest.mark.parametrize(
    "listing", ["", "table ip cpe_agent {\n}\n", "packets 5", "a b packets 5 bytes 6", "\0\xff"]
)
def test_a_listing_without_counters_counts_nothing(listing):
    assert parse_counters(listing) == {}


def test_foreign_counters_are_not_taken_for_guards():
    listing = "counter stranger {\n packets 5 bytes 6\n}\ncounter looped {\n packets 2 bytes 9\n}\n"
    assert parse_counters(listing) == {"looped": 2}


@pytest.mark.parametrize("device", ["map", "4over6", "drop", "wan-4.over_6x", "a", "123"])
def test_any_name_of_a_device_will_do(nft, device):
    nft(text=nat_text(SET, device=device))
    listing = nft("list", "table", "ip", "cpe_agent")
    assert 'oifname "%s" jump' % device in listing
