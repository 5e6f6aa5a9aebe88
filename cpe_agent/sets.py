"""Additional port sets of the softwire: asked for when it runs short, given back when idle.

RFC 7596 5.1 names this as what PCP can do and DHCPv6 cannot. Each is a mapping of its own, on the
server and from the address of the first set (RFC 7753 4.1), with internal ports that no other
mapping has. growth.py decides when; nothing here outlives the first set's way to the server, but
for what is on flash: after a reboot the same sets are asked for again.
"""

from cpe_agent import advice, config, flows, growth, portset, session, store
from cpe_agent.holder import Holder
from cpe_agent.pcp import mapping as m

_FIRST_INTERNAL = 1024  # servers that give the same port inside and outside have sets from there on
_NEARLY_FULL = 90  # percent
_STEP = 64  # ports; between internal ports to try
_OPEN, _CLOSED = "open", "closed to new flows"


class AdditionalSet(Holder):
    """One more mapping of the softwire's."""

    def __init__(self, number, options, place, sets):
        """number: from 1 on. options: config.Softwire, with this set's internal port and size."""
        self.label = "additional set %d: " % number
        super().__init__(name_of(number), options, place)
        self.number = number
        self._sets = sets

    def wish(self):
        """As the first set's, but for internal ports and size."""
        return config.softwire_wish(self.options)

    def on_lost(self, reason):
        """The others go on."""
        self.warning("lost: %s; asking for it again" % reason)

    def on_change(self, now):
        """See Sets."""
        self._sets.on_change(now, self)

    def on_event(self, now, event):
        """See Holder. A set that is refused, or not answered about, is not insisted on."""
        super().on_event(now, event)
        if self.mapping is None or self.mapping.grant is not None or self.released:
            return
        if event.kind == m.EVENT_REFUSED:
            self._sets.on_refusal(now, self, event.detail.lifetime * 1000)
        elif event.kind in (m.GAVE_UP, m.UNUSABLE):
            self._sets.on_refusal(now, self, 0)

    def on_send_error(self, now, error):
        """What the first set's keeper hears, too."""

    def put_off(self, now, error, then):
        """Give the internal ports up: the first set wants them."""
        self.dismiss(now)
        then(now)


def name_of(number):
    """Of an additional set, in the state file."""
    return "%s %d" % (store.SOFTWIRE, number + 1)


class Sets:
    """Those beside the first one."""

    def __init__(self, line, place, usage):
        """line: Line, which holds the first set. usage: usage.Usage, or None where nobody
        counts."""
        self._line = line
        self._place = place
        self._usage = usage
        self._growth = growth.Growth(limits(line.options))
        self._held = {}  # number: AdditionalSet
        self._unfit = []  # (AdditionalSet, why): given back as soon as its event is over
        self._look_at = None  # ms

    # For the agent

    def holders(self):
        """AdditionalSet of all that are wanted."""
        return [self._held[number] for number in sorted(self._held)]

    def state_of(self, holder):
        """For people."""
        return _CLOSED if holder.number == self._growth.closed else _OPEN

    def recall(self):
        """Those that flash remembers are wanted again."""
        for number in range(1, self._growth.limits.most):
            last = self._place.memory.newest_set(name_of(number))
            if last:
                self._add(number, last.internal_port, last.port_set.size)

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        busy = self._usage is not None and self._usage.busy()
        return 0 if self._unfit or busy else self._look_at

    def handle_timer(self, now):
        """Look at what is in use, now and then."""
        while self._unfit:
            self._drop(now, *self._unfit.pop())
        if self._usage:
            self._usage.step(now)
        if self._look_at is None or now < self._look_at or self._usage.busy():
            return
        self._look_at = now + growth.INTERVAL
        sizes = self._sizes()
        at = self._usage.at
        since = None if at is None else now - at
        if sizes and growth.is_worth_a_look(self._growth.limits, sizes, self._usage.flows(), since):
            self._usage.begin(self.all_sets(), self._on_counted)
        else:
            self._tell_fullness(0, None)

    def _on_counted(self, now):
        """Whoever knows the count acts on it."""
        self._look_at = now + self._usage.pause
        sizes, found = self._sizes(), self._usage.found
        if self.all_sets() != self._usage.sets or 0 not in sizes:
            return  # they have changed meanwhile
        numbers = sorted(sizes)
        open_ones = [at for at, one in enumerate(numbers) if one != self._growth.closed]
        idle = [one for at, one in enumerate(numbers) if not _in_use(found, at)]
        needed = flows.needed(found, open_ones)
        self._tell_fullness(100 * needed // sum([sizes[numbers[at]] for at in open_ones]), found)
        self._obey(now, self._growth.look(now, sizes, needed, idle))

    def _tell_fullness(self, percent, found):
        """Warn before the ports run out, once."""
        line = self._line
        if percent >= _NEARLY_FULL and "ports" not in line.errors:
            line.complain("ports", advice.nearly_full(percent, found["hosts"]))
        elif percent < self._growth.limits.more_above and line.errors.pop("ports", None):
            line.info("there are enough free ports again")

    def _obey(self, now, wish):
        if wish is None:
            return
        kind, number = wish
        if kind == growth.MORE:
            error = self.ask(now)
            if error:
                self._growth.refused(now, 0)
                self._line.warning("no more ports are asked for: " + error)
        elif kind == growth.GIVE_BACK:
            self._drop(now, self._held[number], "it is not needed any more")
        else:
            holder = self._held[number]
            holder.info(
                "closed to new flows" if kind == growth.CLOSE else "open to new flows again"
            )
            self._line.apply(now)

    # The line

    def attach(self, now):
        """The first set's way to the server is known."""
        for holder in self.holders():
            options = holder.options
            holder.options = _with(self._line.options, options.internal_port, options.ports)
            error = self._begin(now, holder)
            if error:
                holder.warning("not asked for: %s" % error)
        self._leave_room()
        if self._usage:
            self._look_at = now + growth.INTERVAL

    def _leave_room(self):
        """The first set names its own internal ports, as it did for a forerunner, or else it would
        be a second mapping when the server moves it."""
        if self._held and self._line.mapping:
            self._line.mapping.narrow()

    def forget_path(self):
        """The first set's way is known no more."""
        for holder in self.holders():
            holder.forget_path()
        self._look_at = None

    def port_sets(self):
        """(tuple of PortSet that new flows may use, tuple of those that are only still ours)."""
        unfit = [holder for holder, _ in self._unfit]
        granted = [
            one for one in self.holders() if one not in unfit and one.mapping and one.mapping.grant
        ]
        closed = [one for one in granted if one.number == self._growth.closed]
        return _sets_of([one for one in granted if one not in closed]), _sets_of(closed)

    def wish(self, known):
        """Options of the line, so that the first set leaves internal ports to the others. known:
        store.State of the first set, or None."""
        if not self._held or known is None or not known.first_internal:
            return self._line.options
        return _with(self._line.options, known.first_internal, max(2, known.port_set.size))

    def change(self, now):
        """The line has other options."""
        closed = self._growth.closed
        self._growth = growth.Growth(limits(self._line.options))
        self._growth.closed = closed
        for holder in self.holders():
            if holder.number >= self._growth.limits.most:
                self._drop(now, holder, "option sets does not allow it any more")

    def check(self, now):
        """The first set is another: what does not fit it any more is given back."""
        self._leave_room()
        for holder in self.holders():
            grant = holder.mapping.grant if holder.mapping else None
            why = grant and self._why_not(holder, grant.port_set)
            if why:
                self._drop(now, holder, why)

    def dismiss(self, now):
        """Give all of them back, and forget them."""
        for holder in self.holders():
            holder.dismiss(now)
        self._held = {}

    def release_unasked(self, now):
        """Give back what a forerunner left, without having asked for it."""
        for holder in self.holders():
            error = self._attach(holder)
            if error:
                holder.warning("not given back: %s" % error)
            else:
                holder.mapping.release(now)

    # One more

    def ask(self, now):
        """Ask for one more set. Returns why not, or None."""
        mapping = self._line.mapping
        numbers = range(1, self._growth.limits.most)
        free = [number for number in numbers if number not in self._held]
        if not free:
            return "option sets allows no more than %d" % self._growth.limits.most
        if not mapping or not mapping.grant:
            return "there is no first set yet"
        if not mapping.narrow():
            return advice.whole_address()
        size = mapping.wish.size
        for internal_port in range(_FIRST_INTERNAL, 65536 - size, max(size, _STEP)):
            holder = self._add(free[0], internal_port, size)
            if not self._begin(now, holder):
                holder.info("asking for %d more ports" % size)
                return None
        return "no internal ports are left"

    def _add(self, number, internal_port, size):
        options = _with(self._line.options, internal_port, size)
        self._held[number] = AdditionalSet(number, options, self._place, self)
        return self._held[number]

    def _begin(self, now, holder):
        """Ask for a set. Returns why not, or None."""
        error = self._attach(holder)
        if not error:
            holder.begin(now)
        return error

    def _attach(self, holder):
        line = self._line
        try:
            holder.attach(line.session.server, line.path, line.identity)
        except (OSError, session.Taken) as error:
            del self._held[holder.number]
            return str(error)
        return None

    def on_refusal(self, now, holder, wait):
        """The server gives no more. wait: ms that it wants not to be asked for."""
        self._growth.refused(now, wait)
        self._drop(now, holder, "the server does not give it")

    def on_change(self, now, holder):
        """A set came, changed, or went."""
        grant = holder.mapping.grant
        why = grant and self._why_not(holder, grant.port_set)
        if why:
            self._growth.refused(now, 0)
            self._unfit.append((holder, why))
            return
        if grant:
            self._growth.granted()
        self._line.apply(now)

    def _why_not(self, holder, port_set):
        """Why a set cannot be used beside the others, or None."""
        for other in self._numbered(but=holder.number).values():
            if other.address != port_set.address:
                return "it is of another address, %s" % port_set.address
            if port_set.first <= portset.last(other) and other.first <= portset.last(port_set):
                return "it shares ports with another set"
        return None

    def _drop(self, now, holder, why):
        holder.info("given back: %s" % why)
        self._held.pop(holder.number, None)
        self._line.apply(now)  # first: nobody else may get the set while we still use it
        holder.dismiss(now)

    # What there is

    def _numbered(self, but=None):
        """{number: PortSet} of all that are held."""
        grants = {0: self._line.mapping.grant} if self._line.mapping else {}
        grants.update({one.number: one.mapping.grant for one in self.holders() if one.mapping})
        return {one: grants[one].port_set for one in grants if grants[one] and one != but}

    def _sizes(self):
        found, plan = self._numbered(), self._line.backend.plan
        reserved = plan.reserved if plan else ()
        return {one: growth.room(found[one], reserved) for one in found}

    def all_sets(self):
        """Tuple of PortSet, the first set first."""
        found = self._numbered()
        return tuple([found[one] for one in sorted(found)])


def _in_use(found, at):
    """True if a flow has a port of the set at that place of a summary."""
    protocols = found["protocols"]
    return any(protocols[name]["ports"][at] for name in ("tcp", "udp", "icmp"))


def _sets_of(holders):
    return tuple([one.mapping.grant.port_set for one in holders])


def limits(options):
    """growth.Limits of a config.Softwire."""
    return growth.Limits(
        options.sets, options.more_above, options.less_below, options.set_hold * 1000
    )


def _with(options, internal_port, ports):
    """A config.Softwire that asks for other internal ports, and insists on them."""
    changed = {"internal_port": internal_port, "ports": ports, "fallback": False}
    names = ("name",) + tuple([option[0] for option in config.SOFTWIRE_OPTIONS])
    values = [changed.get(name, value) for name, value in zip(names, options)]
    return config.Softwire(*values)
