"""The user's port forwards against the port sets: 'config redirect' of /etc/config/firewall. Pure.

fw4 renders whatever is written there. What comes from outside is guarded, so a forward outside of
the sets is merely useless; but a redirect also serves hosts of the LAN who go to the shared address
(reflection), and there a port that is a neighbour's is taken from them.
"""

from cpe_agent import portset

_NO = ("0", "off", "false", "no")


def problems(sections, zone, plan):
    """What of the forwards cannot work, and what to do, as lines for people.

    sections: list of uci.Section, fw4's config. zone: name of the zone that the softwire is in.
    plan: plan.Plan that is in place.
    """
    found = []
    for section in sections:
        if section.type == "redirect" and _concerns(section.options, zone):
            found += ["%s %s" % (_title(section), text) for text in _faults(section.options, plan)]
    return found


def ports(sections, zone, port_sets):
    """Tuple of the ports of the sets that these forwards have, which outbound NAT should leave
    alone; but for those that would take more than a quarter of all ports: outbound connections
    need them more.

    sections, zone: as for problems(). port_sets: tuple of portset.PortSet.
    """
    most = sum([one.size for one in port_sets]) // 4
    found = set()
    for section in sections:
        if section.type == "redirect" and _concerns(section.options, zone):
            first, last = _range(section.options.get("src_dport")) or (1, 0)
            own = [port for port in range(first, last + 1) if _is_in(port_sets, port)]
            if len(found | set(own)) <= most:
                found |= set(own)
    return tuple(sorted(found))


def zone_of(sections, device, name, zone=""):
    """Name of the zone that an interface is in, or None. zone: that it says itself."""
    for one in sections:
        if one.type != "zone" or one.options.get("enabled") in _NO:
            continue
        same = zone and one.options.get("name") == zone
        if same or name in _words(one, "network") or device in _words(one, "device"):
            return one.options.get("name")
    return None


def zones_to(sections, zone):
    """Names of the zones that may send to one, in the config's order."""
    found = []
    for one in sections:
        options = one.options
        allowed = one.type == "forwarding" and options.get("enabled") not in _NO
        if allowed and options.get("dest") == zone and options.get("src") not in found + [None]:
            found.append(options.get("src"))
    return found


def _words(section, name):
    value = section.options.get(name, [])
    return value.split() if isinstance(value, str) else value


def _title(section):
    name = section.options.get("name") or section.name
    return "the forward '%s'" % name if name else "a forward (config redirect)"


def _concerns(options, zone):
    off = options.get("enabled") in _NO
    wrong_family = str(options.get("family", "any")).lower() not in ("any", "ipv4", "*")
    other = str(options.get("target", "DNAT")).upper() != "DNAT"
    return not (off or wrong_family or other) and options.get("src") == zone


def _faults(options, plan):
    address = options.get("src_dip")
    if isinstance(address, str) and "." in address and address not in (plan.address, plan.inner):
        return ["is for %s, but the address is %s now; leave src_dip out" % (address, plan.address)]
    ports = _range(options.get("src_dport"))
    if ports is None:
        return _faults_of_all_ports(options)
    if ports is False:
        return []  # fw4 says what is wrong with it
    return _faults_of_ports(options, plan, *ports) + _faults_of_target(options, plan)


def _faults_of_all_ports(options):
    if not _reflects(options):
        return []
    return [
        "takes all ports: from the LAN, neighbours with other ports of the address cannot be"
        " reached; set option reflection '0'"
    ]


def _faults_of_ports(options, plan, first, last):
    inside = [port for port in range(first, last + 1) if _is_in(plan.port_sets, port)]
    if len(inside) == last + 1 - first:
        return []
    sets = ", ".join([_text(one.first, portset.last(one)) for one in plan.port_sets])
    if inside:
        text = "is for ports %s, of which only %d are in the port sets %s"
        return [text % (_text(first, last), len(inside), sets)]
    own = plan.port_sets[0]
    free = own.first + first % own.size
    advice = "use port %d, say" % free if first == last else "use ports of them"
    text = "is for port %s, which is outside of the port sets %s, so nobody outside reaches it; %s"
    found = [text % (_text(first, last), sets, advice)]
    if _reflects(options):
        found[0] += " (from the LAN, it keeps a neighbour with that port from being reached)"
    return found


def _faults_of_target(options, plan):
    if options.get("dest_ip"):
        return []
    return [
        "has no dest_ip, so it leads to the shared address, where this router does not listen; set"
        " option dest_ip '%s'" % plan.inner
    ]


def _reflects(options):
    return options.get("reflection") not in _NO


def _is_in(port_sets, port):
    return any(portset.contains(one, port) for one in port_sets)


def _text(first, last):
    return "%d" % first if first == last else "%d-%d" % (first, last)


def _range(text):
    """(first, last) of ports as fw4 reads them; None for all ports, False for what is none."""
    if not text:
        return None
    if not isinstance(text, str):
        return False
    first, _, last = text.replace(":", "-").partition("-")
    last = last or first
    if not portset.is_number(first) or not portset.is_number(last):
        return False
    first, last = int(first), int(last)
    return (first, last) if 1 <= first <= last <= 65535 else False
