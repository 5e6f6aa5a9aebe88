"""What miniupnpd may give to hosts of the LAN: ports of the sets, as far as nobody has them; and
the address that it tells them. Pure.

OpenWrt's miniupnpd reads /etc/config/upnpd, which is the user's, and over it /var/state/upnpd,
which is in RAM: there stand our 'perm_rule' sections, in front of the user's, since the first rule
that fits decides. They only deny; what the user denies stays denied. The address is told since two
are on the softwire. A STUN server would find that this NAT hides its ports, and with an address
given miniupnpd does not start if it shall ask one.
"""

from cpe_agent import portset

_NAME = "upnpd.cpe_agent_"  # begins the names of our sections
_ADDRESS, _STUN = "upnpd.config.external_ip", "upnpd.config.use_stun"
# Begins addresses that miniupnpd takes for no public ones: as external_ip it does not start.
_NOT_PUBLIC = ("10.", "127.", "169.254.", "192.0.0.", "192.0.2.", "192.168.", "198.18.", "198.19.")
_NOT_PUBLIC += ("198.51.100.", "203.0.113.")
_NOT_PUBLIC_RANGES = {"100": (64, 127), "172": (16, 31)}  # by the first octet: of the second
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


def is_public(address):
    """True if miniupnpd gives ports of an address. address: dotted text."""
    first, second = address.split(".")[:2]
    low, high = _NOT_PUBLIC_RANGES.get(first, (256, 256))
    private = [begin for begin in _NOT_PUBLIC if address.startswith(begin)]
    return not private and not low <= int(second) <= high


def state(text, ranges, address=None):
    """Text of /var/state/upnpd that denies ranges, and names the external address, if one is given.
    text: what is in it now; what is not ours stays."""
    kept = [line for line in text.split("\n") if line and not _is_ours(line)]
    if address and is_public(address):
        kept += ["%s='%s'" % (_ADDRESS, address), "%s='0'" % _STUN]
    for number, (first, last) in enumerate(ranges):
        where = "%s%d" % (_NAME, number)
        kept.append("%s='perm_rule'" % where)
        kept.append("^%s='%d'" % (where, number))  # its place among the sections
        kept.append("%s.action='deny'" % where)
        kept.append("%s.ext_ports='%d-%d'" % (where, first, last))
        kept.append("%s.comment='not of the port set'" % where)
    return "".join([line + "\n" for line in kept])


def _is_ours(line):
    where = line.lstrip("^-@+|~")
    return where.startswith(_NAME) or where.split("=")[0] in (_ADDRESS, _STUN)


def is_on(sections, interface):
    """True if miniupnpd shall serve an interface, by the config that OpenWrt makes it.

    sections: list of uci.Section of /etc/config/upnpd. interface: its name.
    """
    found = [one.options for one in sections if one.type == "upnpd"]
    return bool(found) and found[0].get("enabled") not in _NO and may_serve(sections, interface)


def may_serve(sections, interface):
    """True if it would serve that interface as soon as it is installed and enabled: then our rules
    have to be there already. sections, interface: see is_on()."""
    for one in sections:
        if one.type == "upnpd":
            foreign = one.options.get("config_file")
            return not foreign and one.options.get("external_iface", interface) == interface
    return True


def problems(sections, address):
    """What keeps hosts from getting ports, or only those of the sets, as lines for people.

    sections: see is_on(). address: the shared one, dotted text.
    """
    found = []
    if not is_public(address):
        found.append(
            "miniupnpd gives no ports of %s, which it takes for no public address" % address
        )
    for one in sections:
        if one.type == "internal_network" and one.options.get("acl_custom_first") != "1":
            found.append(
                "miniupnpd gives ports outside of the port sets: set option acl_custom_first '1' in"
                " section 'internal_network' of /etc/config/upnpd"
            )
            break
    return found
