"""A mapping for its own sake: ports of a NAT44, a NAT64 or a firewall, for this host or another."""

from cpe_agent import address, config
from cpe_agent.keeper import Keeper
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
