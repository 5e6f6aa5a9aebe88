"""Ports that outbound flows leave alone, and what becomes of them. Both runtimes."""

from cpe_agent import config, forwards, nat, nat_forwards, netlink, plan, portset
from cpe_agent.pcp import wire

FIRST = portset.PortSet("192.0.2.3", 1024, 1024)
MORE = portset.PortSet("192.0.2.3", 8192, 256)
SOFTWIRE = config.parse("config softwire\n option aftr '2001:db8::1'\n").softwire
GAME = forwards.Placed("game", ("udp",), "192.0.2.3", 1500, "192.168.1.10", 27015, None)
OTHER = forwards.Placed("web", ("tcp", "udp"), "192.0.2.3", 1600, "192.168.1.11", 80, None)
LOST = forwards.Placed("lost", ("tcp",), "192.0.2.3", None, "192.168.1.12", 81, "port 9 is ...")


def ranges(port_sets, *ports):
    return [(one.first, portset.last(one)) for one in portset.without(port_sets, ports)]


def built(placed=(), reserved=(), others=(), closed=()):
    path = netlink.Path("wan", 2, 1500, bytes(15) + b"\2")
    return plan.build(SOFTWIRE, path, FIRST, others, closed, placed, reserved)


def test_nothing_is_taken_out_where_nothing_is_reserved():
    assert portset.without((FIRST, MORE), ()) == (FIRST, MORE)
    assert ranges((FIRST,), 80, 2048) == [(1024, 2047)]


def test_a_port_leaves_two_pieces():
    assert ranges((FIRST, MORE), 1500) == [(1024, 1499), (1501, 2047), (8192, 8447)]
    assert ranges((FIRST,), 1500, 1501, 1500) == [(1024, 1499), (1502, 2047)]


def test_a_port_at_an_edge_leaves_one():
    assert ranges((FIRST,), 1024, 2047) == [(1025, 2046)]


def test_pieces_that_are_too_small_go_too():
    """Each has its share of the flows, so that they would all want the same few ports."""
    assert ranges((FIRST,), 2035) == [(1024, 2034)]  # 12 ports of 1024
    assert ranges((FIRST,), 2031) == [(1024, 2030), (2032, 2047)]
    small = portset.PortSet("192.0.2.3", 3000, 8)
    assert ranges((small,), 3001, 3004) == [(3002, 3003), (3005, 3007)], "3000 alone is none"


def test_single_ports_stay_where_nothing_else_is_left():
    small = portset.PortSet("192.0.2.3", 3000, 4)
    assert ranges((small,), 3001, 3003) == [(3000, 3000), (3002, 3002)]
    assert ranges((portset.PortSet("192.0.2.3", 3000, 1),), 80) == [(3000, 3000)]


def test_most_ports_stay_with_as_many_forwards_as_there_may_be():
    text = "".join(
        ["config forward 'f%d'\n option dest_port '80'\n" % n for n in range(config.MAX_FORWARDS)]
    )
    wanted = config.parse("config softwire\n option aftr '2001:db8::1'\n" + text).forwards
    for size in (64, 256, 1024):
        own = portset.PortSet("192.0.2.3", 1024, size)
        placed = forwards.place(wanted, (own,), "192.0.0.2", wire.PROTO_ALL)
        ports = forwards.reserved(placed)
        left = portset.without((own,), ports)
        assert sum([one.size for one in left]) >= size - max(2 * len(ports), 64)
        assert not [one for one in left for port in ports if portset.contains(one, port)]


def test_new_flows_leave_reserved_ports_alone_and_the_guards_let_them_pass():
    found = built(reserved=(1500, 9000), others=(MORE,))
    assert found.reserved == (1500, 9000)
    assert found.port_sets == (FIRST, MORE)
    assert ranges(found.open_sets) == [(1024, 1499), (1501, 2047), (8192, 8447)]
    assert "th sport { 1024-2047, 8192-8447 } return" in found.nat
    assert "th dport { 1024-2047, 8192-8447 } return" in found.nat


def test_ports_of_a_set_that_is_closed_are_no_ones_business():
    found = built(reserved=(8200,), closed=(MORE,))
    assert found.open_sets == (FIRST,) and found.port_sets == (FIRST, MORE)


def test_a_server_sends_from_the_port_that_it_is_reached_at():
    rules = nat_forwards.services((GAME, LOST, OTHER))
    assert rules == [
        "ip saddr 192.168.1.10 meta l4proto { udp } th sport 27015 snat to 192.0.2.3:1500",
        "ip saddr 192.168.1.11 meta l4proto { tcp, udp } th sport 80 snat to 192.0.2.3:1600",
    ]
    translate = nat.flow_chains(built((GAME,)))["translate"]
    numbers = [at for at, rule in enumerate(translate) if " sport 27015 " in rule]
    assert numbers and numbers[0] < min(
        at for at, rule in enumerate(translate) if "walk" in rule
    ), "before all others"


def test_a_forward_leads_to_its_host():
    text = built((OTHER, LOST)).nat
    assert "dstnat ip daddr 192.0.2.3 meta l4proto { tcp, udp } th dport 1600" in text
    assert "dnat to 192.168.1.11:80" in text
    assert "192.168.1.12" not in text
    assert "rule ip cpe_agent dstnat" not in built((LOST,)).nat
    assert "masquerade" not in built().nat


def test_another_forward_is_another_plan():
    assert len({built(placed).mark for placed in ((), (GAME,), (OTHER,), (GAME, OTHER))}) == 4


def test_flows_of_forwards_that_are_gone_or_lead_elsewhere_end():
    moved = forwards.Placed("web", OTHER.proto, OTHER.address, 1600, "192.168.1.99", 80, None)
    assert forwards.gone((GAME, OTHER, LOST), (GAME, moved)) == [("192.0.2.3", 1600)]
    assert forwards.gone((GAME,), (GAME, OTHER)) == []
    assert forwards.gone((OTHER, GAME), ()) == [("192.0.2.3", 1500), ("192.0.2.3", 1600)]
