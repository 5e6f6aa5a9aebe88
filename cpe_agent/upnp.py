"""What miniupnpd may give to hosts of the LAN: ports of the sets, as far as nobody has them. Pure.

OpenWrt's miniupnpd reads /etc/config/upnpd, which is the user's, and over it /var/state/upnpd,
which is in RAM: there stand our 'perm_rule' sections, in front of the user's, since the first rule
that fits decides. They only deny; what the user denies stays denied.
"""

from cpe_agent import portset

_NAME = "cpe_agent_"  # begins the names of our sections
_NO = ("0", "off", "false", "no", "disabled")


def denied(port_sets, reserved):
    """Ranges, as list of (first, last), of all ports but those of the sets that are not reserved.

    port_sets: tuple of portset.PortSet. reserved: tuple of ports.
    """
    found = []
    begin = 0
    for first, last in sorted(_allowed(port_sets, set(reserved))):
        if begin < first:
            found.append((begin, first - 1))
        begin = last + 1
    return found + ([(begin, 65535)] if begin <= 65535 else [])


def _allowed(port_sets, reserved):
    """(first, last) of ranges in the sets between reserved ports."""
    found = []
    for one in port_sets:
        first = one.first
        for port in sorted(reserved | {portset.last(one) + 1}):
            if one.first <= port <= portset.last(one) + 1:
                if first < port:
                    found.append((first, port - 1))
                first = port + 1
    return found


def state(text, ranges):
    """Text of /var/state/upnpd that denies ranges. text: what is in it now; what is not ours
    stays."""
    kept = [line for line in text.split("\n") if line and not _is_ours(line)]
    for number, (first, last) in enumerate(ranges):
        where = "upnpd.%s%d" % (_NAME, number)
        kept.append("%s='perm_rule'" % where)
        kept.append("^%s='%d'" % (where, number))  # its place among the sections
        kept.append("%s.action='deny'" % where)
        kept.append("%s.ext_ports='%d-%d'" % (where, first, last))
        kept.append("%s.comment='not of the port set'" % where)
    return "".join([line + "\n" for line in kept])


def _is_ours(line):
    return line.lstrip("^-@+|~").startswith("upnpd." + _NAME)


def is_on(sections, interface):
    """True if miniupnpd shall serve an interface, by the config that OpenWrt makes it.

    sections: list of uci.Section of /etc/config/upnpd. interface: its name.
    """
    for one in sections:
        if one.type == "upnpd":
            options = one.options
            off = options.get("enabled") in _NO or options.get("config_file")
            return not off and options.get("external_iface", interface) == interface
    return False


def problems(sections):
    """What keeps our rules from being the first, as lines for people. sections: see is_on()."""
    for one in sections:
        if one.type == "internal_network" and one.options.get("acl_custom_first") != "1":
            return [
                "miniupnpd gives ports outside of the port sets: set option acl_custom_first '1' in"
                " section 'internal_network' of /etc/config/upnpd"
            ]
    return []
