"""A mapping for its own sake: ports of a NAT44, a NAT64 or a firewall, for this host or another."""

from cpe_agent import address, advice, config, session
from cpe_agent.keeper import PATH_RETRY, Keeper
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire
from cpe_agent.portset import PortSet

_NOTHING = {4: "0.0.0.0", 6: "::"}  # "no preference" (RFC 6887 11.1)


class Ports(Keeper):
    """Keeps one 'config mapping', or one that a command asked for."""

    def __init__(self, options, place):
        """options: config.Mapping."""
        self.label = "mapping '%s': " % options.name
        super().__init__("mapping " + options.name, options, place)

    def family(self):
        """IPv6 if anything of the mapping but its external address is, else as that is."""
        options = self.options
        for one in (options.internal_address, options.source):
            if one is not None:
                return 4 if wire.is_v4(one) else 6
        return options.family

    def wish(self):
        """As the options say."""
        return config.mapping_wish(self.options)

    def suggestion(self):
        """The set held before, or what the options want where that is something else, or where
        nothing else will do."""
        options = self.options
        where = _NOTHING[options.family]
        if options.external_address is not None:
            where = address.text(options.external_address)
        wanted = PortSet(where, options.external_port, options.ports)
        if self.known is None or options.prefer_failure:
            return wanted if options.external_port or options.external_address else None
        same_port = options.external_port in (0, self.known.first)
        same_address = options.external_address is None or where == self.known.address
        return self.known if same_port and same_address else wanted

    def start(self, now):
        """Want the mapping from now on, if the config says so."""
        self.released = not self.options.enabled
        if self.options.enabled:
            super().start(now)

    def on_taken(self, now, error):
        """Who has the ports keeps them. Who is giving them back will have done so in seconds."""
        holders = [one for one in error.owners if not isinstance(one, session.Farewell)]
        if [one for one in holders if not isinstance(one, Ports)]:
            self.complain("path", advice.put_off(self._server_text(), error))
        elif holders:
            self.complain("path", advice.overlap(self._server_text(), error))

    def put_off(self, now, error, then):
        """Give the internal ports up to the softwire (RFC 7753 6.3). then(now) is called when the
        server has heard of it, or has been silent for long enough."""
        if self.mapping.state == m.IDLE:
            self.forget_path()
            then(now)
            return
        self.complain("path", advice.put_off(self._server_text(), error))
        server = self._identity

        def on_gone(now, confirmed):
            self._on_dismissed(server, confirmed)
            then(now)
            self.look_soon(now + PATH_RETRY)

        self.let_go(now, on_gone)

    def change(self, now, options):
        """Go over to other options. What the server has to know of is asked for anew, once it has
        heard that the old mapping is not wanted."""
        if self.mapping and not _same_mapping(self.options, options):
            self.let_go(now)
        else:
            self.forget_path()
        self.options = options
        self.choose_anew()
        self.start(now)


def _same_mapping(one, other):
    """True if a request of one renews the mapping of the other."""
    return _without_lifetime(one) == _without_lifetime(other)


def _without_lifetime(options):
    return [
        value
        for name, value in zip([option[0] for option in config.MAPPING_OPTIONS], options[1:])
        if name not in ("lifetime", "default_router")
    ]
