"""What the agent's rules owe to what comes in (RFC 5508 REQ-4, RFC 5382 REQ-4, RFC 7596 8.2)."""

from tests.netns.topology import IMPATIENCE, INTERNET, LAN_HOST, PATIENCE, SHARED

CLOSED = 9
ICMP, UNREACHABLE = 1, 3


def test_icmp_errors_from_outside_reach_the_host_that_they_are_about(home):
    inner = home.lan.call("open_udp", "asking", 0)
    home.lan.call("send_udp", "asking", INTERNET[0], CLOSED)
    assert home.lan.call("talk", INTERNET[0], 80, PATIENCE).split()[0] == SHARED
    home.lan.call("close", "asking")
    (error,) = [packet for packet in home.lan.call("sniffed") if packet["protocol"] == ICMP]
    assert (error["type"], error["source"], error["destination"]) == (
        UNREACHABLE,
        INTERNET[0],
        LAN_HOST,
    )
    assert (error["about"]["source"], error["about"]["port"]) == (LAN_HOST, inner)
    assert home.cpe.call("counters")["outside_in"] == 0


def test_a_connection_that_nobody_forwards_is_not_answered(home):
    """RFC 5382 REQ-4: an answer within six seconds would spoil a simultaneous open."""
    assert home.inet.call("talk", SHARED, 1700, IMPATIENCE) == "TimeoutError"
