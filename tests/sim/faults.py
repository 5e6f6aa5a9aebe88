"""What goes wrong in a scenario, and when. Each fault is a function of (simulation, now)."""

from cpe_agent.pcp import wire
from tests.sim.network import HOUR, MINUTE, SECOND
from tests.sim.operator_side import MAX_DRIFT
from tests.sim.router import SERVER

REFUSALS = (
    wire.NOT_AUTHORIZED,
    wire.UNSUPP_OPCODE,
    wire.NETWORK_FAILURE,
    wire.NO_RESOURCES,
    wire.USER_EX_QUOTA,
    wire.CANNOT_PROVIDE_EXTERNAL,
    wire.ADDRESS_MISMATCH,
)
REFUSAL_LIFETIMES = (0, 1, 30, 600, 1800, 86400, 0xFFFFFFFF)


def _router(sim):
    """One that is on and awake, or None."""
    ready = [one for one in sim.routers if one.session and not one.asleep_until]
    return sim.chance.choice(ready) if ready else None


def power_cut(sim, now):
    """RAM is gone; the flash is not."""
    router = _router(sim)
    if router:
        router.power_off(now)
        back = now + sim.chance.randrange(1, 10 * MINUTE)
        sim.judge.trouble(back)
        sim.time.at(back, _power_back, router)


def _power_back(now, router):
    if router.session is None:
        router.power_on(now)


def state_file_lost(sim, now):
    """The flash is, too: the old mapping keeps its owner out until it ends."""
    router = _router(sim)
    if router:
        router.power_off(now)
        router.lose_flash()
        sim.judge.trouble(now)
        _power_back(now, router)


def suspended(sim, now):
    """A router whose clock stands still for a while: a virtual machine, or a bad clock."""
    router = _router(sim)
    if router:
        until = min(now + sim.chance.randrange(SECOND, 12 * HOUR), sim.calm)
        router.sleep(now, until)
        sim.judge.trouble(until, epochs=True)


def server_forgets(sim, now):
    """The server restarts without its state. Announcements may be lost or not made; some servers
    even forget to reset their epoch."""
    told = sim.chance.random() < 0.8
    announce = sim.chance.choice((False, "unicast", "multicast")) if told else False
    sim.all_lost(now, told)
    operator = sim.operator
    datagrams = operator.core.forget(operator.clock(now), epoch_reset=told, announce=announce)
    sim.note(now, "server forgets, %s %s", told, announce)
    sim.deliver(now, operator.sent(datagrams))
    sim.plan_traffic(now)


def server_down(sim, now):
    """Nobody answers; half of the servers have lost their state when they are back."""
    sim.operator.up = False
    back = min(now + sim.chance.randrange(1, 6 * HOUR), sim.calm)
    sim.judge.trouble(back)
    sim.time.at(back, _server_back, sim)


def _server_back(now, sim):
    _speaks(now, sim)
    if sim.chance.random() < 0.5:
        server_forgets(sim, now)


def binding_dropped(sim, now):
    """The data plane loses one router's bindings; the PCP server does not know."""
    router = _router(sim)
    if router:
        sim.judge.trouble(now)
        for line in router.lines:
            line.lost(now)
        sim.operator.core.drop_binding(router.address)
        sim.plan_traffic(now)


def bad_network(sim, now):
    """Loss, long ways, copies; and with them datagrams that overtake each other."""
    chance = sim.chance
    sim.weather.turn(
        chance.choice((0.1, 0.5, 0.9)), chance.choice((50, 2000, 10000)), chance.choice((0.0, 0.3))
    )
    until = min(now + chance.randrange(1, 6 * HOUR), sim.calm)
    sim.judge.trouble(until, epochs=True)
    sim.time.at(until, good_network, sim)


def good_network(now, sim):
    """All is well on the way."""
    sim.weather.turn(*sim.weather.GOOD)


def set_moved(sim, now):
    """The server gives a router other ports and says so by Mapping Updates."""
    router = _router(sim)
    operator = sim.operator
    if not router or not operator.up:
        return
    try:
        datagrams = operator.core.move(operator.clock(now), router.address)
    except LookupError:
        return  # it has none, or there is no room
    sim.judge.trouble(now)
    for line in router.lines:
        line.lost(now)
        line.moved = True
    sim.deliver(now, operator.sent(datagrams))
    sim.plan_traffic(now)


def set_ended(sim, now):
    """The server ends a mapping and tells by an answer with lifetime 0 that nobody asked for."""
    router = _router(sim)
    line = sim.chance.choice(router.lines) if router else None
    if line is None or line.nat is None or not sim.operator.up:
        return
    body = wire.MapData(
        line.mapping.nonce, line.wish.protocol, line.wish.internal_port, 0, bytes(16)
    )
    option = wire.port_set_option(line.nat.size, line.wish.internal_port)
    deletion = wire.map_request(router.address, 0, body, option)
    sim.judge.trouble(now)
    line.lost(now - 1)  # before this answer, which tells it
    told = sim.operator.receive(now, deletion, router.address, router.port)
    sim.deliver(now, [(_with_set(data, line.nat), *to) for data, *to in told])


def _with_set(data, port_set):
    """The answer to a deletion bears what was suggested; an unasked one names the set."""
    return data[:42] + port_set.first.to_bytes(2, "big") + data[44:]


def set_released(sim, now):
    """The user gives the set back, and wants it again later."""
    router = _router(sim)
    if router is None or not all(line.wanted for line in router.lines):
        return
    held = [line for line in router.lines if line.nat]
    router.release(now)
    sim.time.at(now + MINUTE, _check_given_back, sim, held, now)
    sim.time.at(now + sim.chance.randrange(2 * MINUTE, HOUR), _ask_again, router)


def _check_given_back(now, sim, lines, since):
    for line in lines:
        sim.judge.check_given_back(now, line, since)


def _ask_again(now, router):
    if router.session and not router.asleep_until and not router.lines[0].wanted:
        router.ask_again(now)


def prefix_changed(sim, now):
    """The provider renumbers a router: another IPv6 address, another client to the server."""
    router = _router(sim)
    if router and router.lines[0].wanted:
        sim.judge.trouble(now)
        router.renumber(now, farewell=sim.chance.random() < 0.5)


def refused(sim, now):
    """The server refuses everything for a while, with all kinds of lifetimes."""
    faults = sim.operator.core.faults
    faults.refuse = sim.chance.choice(REFUSALS)
    faults.refuse_lifetime = sim.chance.choice(REFUSAL_LIFETIMES)
    until = min(now + sim.chance.randrange(1, 6 * HOUR), sim.calm)
    sim.judge.trouble(until)
    sim.time.at(until, _refused_no_more, sim)


def _refused_no_more(now, sim):
    sim.operator.core.faults.refuse = 0


def old_version(sim, now):
    """The server is replaced by one that speaks NAT-PMP alone, for a while."""
    sim.operator.speaks_version_2 = False
    until = min(now + sim.chance.randrange(1, 3 * HOUR), sim.calm)
    sim.judge.trouble(until)
    sim.time.at(until, _new_version, sim)


def _new_version(now, sim):
    sim.operator.speaks_version_2 = True


def epoch_set_back(sim, now):
    """The server's clock is set back by one second, seen in two announcements in a row and in the
    answers of some hours: RFC 6887 8.5 puts up with it."""
    if sim.operator.epoch_steps != (0,) or now < sim.judge.trouble_until + HOUR:
        return
    if not sim.operator.up or sim.weather.loss:
        return
    idle = [router for router in sim.routers if _is_idle(sim, now, router)]
    _announce(now, sim, 0)
    sim.time.at(now + SECOND // 10, _announce, sim, -1)
    sim.time.at(now + SECOND, _check_calm, sim, idle, now)
    sim.operator.epoch_steps = (-1,)
    sim.time.at(now + sim.chance.randrange(MINUTE, 6 * HOUR), _epoch_set_right, sim)


def _announce(now, sim, step):
    sim.operator.epoch_steps = (step,)
    epoch = sim.operator.core.epoch(sim.operator.clock(now))
    data = wire.response(wire.OP_ANNOUNCE, wire.SUCCESS, 0, epoch)
    told = [(data, router.address, router.port) for router in sim.routers]
    sim.deliver(now, sim.operator.sent(told))


def _is_idle(sim, now, router):
    """True for a router that awaits no answer and has heard of all losses: it has no reason to
    ask."""
    heard = router.heard_sent is not None and router.heard_sent > sim.judge.epochs_odd_until
    return heard and all(
        line.nat and not line.mapping.unanswered and (line.sent_at or 0) < now - MINUTE
        for line in router.lines
    )


def _check_calm(now, sim, idle, since):
    for router in idle:
        recovered = router.recovered_at or 0
        asked = any(since <= line.sent_at < recovered for line in router.lines)  # a renewal was due
        if recovered >= since and not asked:
            sim.judge.fail(router.lines[0], "recovery, though the epoch is but one second behind")


def _epoch_set_right(now, sim):
    if sim.operator.epoch_steps == (-1,):
        sim.operator.epoch_steps = (0,)


def epochs_differ(sim, now):
    """Two servers behind one address, with epochs of their own: every second answer looks like a
    restart."""
    sim.operator.epoch_steps = (0, sim.chance.randrange(1000, 1000000))
    until = min(now + sim.chance.randrange(MINUTE, 6 * HOUR), sim.calm)
    sim.judge.trouble(until, epochs=True)
    sim.time.at(until, _epochs_agree, sim)


def _epochs_agree(now, sim):
    sim.operator.epoch_steps = (0,)


def clock_drifts(sim, now):
    """From now on the server's clock runs wrong, by as much as RFC 6887 8.5 puts up with."""
    sim.operator.drift(now, sim.chance.randint(-MAX_DRIFT, MAX_DRIFT))
    sim.fast_clock = True


def shorter_leases(sim, now):
    """The operator tries short leases for some hours."""
    sim.lease_at_most(sim.chance.choice((120, 300, 600)))
    until = min(now + sim.chance.randrange(MINUTE, 2 * HOUR), sim.calm)
    sim.time.at(until, _longer_leases, sim)


def _longer_leases(now, sim):
    sim.lease_at_most(sim.lifetime_max)


def hard_hour(sim, now):
    """All at once: the server restarts, and its leases are short, answers come late and twice, and
    it falls silent for minutes, so that leases end in doubt."""
    chance = sim.chance
    sim.lease_at_most(120)
    server_forgets(sim, now)
    end = min(now + HOUR, sim.calm)
    sim.judge.trouble(end, epochs=True)
    sim.weather.turn(0.1, 10000, 0.5)
    for _ in range(5):
        start = now + chance.randrange(HOUR)
        if start < end:
            sim.time.at(start, _falls_silent, sim)
            sim.time.at(min(start + chance.randrange(2 * MINUTE, 5 * MINUTE), end), _speaks, sim)
    sim.time.at(end, _hard_hour_ends, sim)


def _falls_silent(now, sim):
    sim.operator.up = False


def _speaks(now, sim):
    sim.operator.up = True
    sim.time.wake(sim, now)


def _hard_hour_ends(now, sim):
    _speaks(now, sim)
    _longer_leases(now, sim)
    good_network(now, sim)


def forged(sim, now):
    """Somebody who does not see our traffic sends answers in the server's name; somebody who does
    sees to it that they come from elsewhere. Neither may matter."""
    router = _router(sim)
    if router is None:
        return
    chance = sim.chance
    for _ in range(4):
        line = chance.choice(router.lines)
        nonce, address, port = sim.random_bytes(12), SERVER, wire.SERVER_PORT
        if chance.random() < 0.5:
            nonce = line.mapping.nonce
            address, port = chance.choice(((SERVER[:15] + b"\2", port), (SERVER, port + 1)))
        data = wire.MapData(
            nonce, line.wish.protocol, line.wish.internal_port, 7168, wire.V4_PREFIX + b"\xcb\0q\1"
        )
        code = chance.choice((wire.SUCCESS, wire.SUCCESS, wire.NOT_AUTHORIZED))
        lifetime = chance.choice((0, 3600))
        epoch = sim.operator.core.epoch(sim.operator.clock(now))
        option = wire.port_set_option(64, line.wish.internal_port)
        answer = wire.map_response(code, lifetime, epoch, data, option)
        sim.judge.hearing_other(genuine=False)
        router.receive_forged(now, answer, address, port)


ALL = (
    power_cut,
    state_file_lost,
    suspended,
    server_forgets,
    server_forgets,
    server_down,
    binding_dropped,
    bad_network,
    bad_network,
    set_moved,
    set_ended,
    set_released,
    prefix_changed,
    refused,
    old_version,
    epoch_set_back,
    epochs_differ,
    clock_drifts,
    shorter_leases,
    hard_hour,
    hard_hour,
    forged,
)
