"""Timeouts of idle flows: none is below what the RFCs allow, whatever the option says."""

from cpe_agent import config, timeouts

# Seconds, by nft's name of the state. Half open there is no floor: RFC 7857 2.1.
FLOORS = {
    "tcp": {
        "established": 7440,  # RFC 5382 REQ-5
        "fin_wait": 240,
        "close_wait": 240,
        "last_ack": 240,
        "time_wait": 240,
        "close": 240,  # RFC 7857 2.2
    },
    "udp": {"unreplied": 120, "replied": 120},  # RFC 4787 REQ-5
}


def seconds(definition):
    """(protocol, {state: seconds}) of an object as nft reads it."""
    words = definition.replace("{", " ").replace("}", " ").replace(";", " ").split()
    numbers = definition.partition("policy = {")[2].partition("}")[0]
    states = [one.split(":") for one in numbers.split(",")]
    return words[1], {name.strip(): int(number) for name, number in states}


def floors(name, protocol):
    """REQ-5 (a) of RFC 4787 lets UDP to a well-known port have less."""
    return FLOORS[protocol] if name != "small_dns" else {"unreplied": 1, "replied": 1}


def test_no_timeout_is_below_its_floor():
    found = 0
    for word in timeouts.WORDS:
        objects = timeouts.objects(word)
        for name in objects:
            protocol, states = seconds(objects[name])
            least = floors(name, protocol)
            for state in least:
                found += 1
                assert states[state] >= least[state], (name, state)
    assert found == len(FLOORS["tcp"]) + 2 * len(FLOORS["udp"])


def test_only_dns_is_below_the_floor_of_udp():
    rules = [rule for rule in timeouts.rules(timeouts.SMALL) if "small_dns" in rule]
    assert rules == ['udp dport 53 ct timeout set "small_dns"']


def test_each_rule_has_its_object_and_each_object_its_rule():
    for word in timeouts.WORDS:
        names = sorted(timeouts.objects(word, "x_"))
        rules = timeouts.rules(word, "x_")
        assert names == sorted([rule.split('"')[-2] for rule in rules])
        assert not [name for name in names if not name.startswith("x_")]


def test_nothing_is_changed_unless_the_option_says_so():
    assert timeouts.objects(timeouts.KEEP) == {}
    assert timeouts.rules(timeouts.KEEP) == []
    assert config.parse("config softwire\n option aftr '2001:db8::1'").softwire.flow_timeouts == (
        timeouts.KEEP
    )


def test_numbers_are_refused_so_that_no_floor_can_be_undercut():
    for text in ("30", "0", "none", "Small"):
        lines = "config softwire\n option aftr '2001:db8::1'\n option flow_timeouts '%s'" % text
        try:
            config.parse(lines)
        except config.ConfigError as error:
            assert "option flow_timeouts '%s' cannot be used; allowed: keep, small" % text in str(
                error
            )
        else:
            raise AssertionError(text)
