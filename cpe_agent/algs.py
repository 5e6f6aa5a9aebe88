"""Application layer gateways of the kernel that announce ports to peers. Pure.

FTP's PORT, SIP's Contact, H.323, IRC's DCC and Amanda tell a peer where to connect to. The kernel's
nf_nat_* modules write an address and port of their choice into them: the shared address, but a port
from 1024 on that knows of no set. Nobody reaches it here, and it may be a neighbour's. TFTP
announces nothing, and PPTP's GRE has no ports, and never passes.
"""

MODULES = ("nf_nat_amanda", "nf_nat_ftp", "nf_nat_h323", "nf_nat_irc", "nf_nat_sip")

_NO = ("0", "off", "false", "no", "disabled")
_YES = ("1", "on", "true", "yes", "enabled")


def problems(loaded, zones):
    """Lines for people. loaded: those of MODULES that are. zones: names of the zones of fw4's
    config that use them (see zones_with_helpers), or None where fw4 is not."""
    if not loaded or zones == []:
        return []
    where = "in zone '%s' of /etc/config/firewall" % "', '".join(zones or ())
    advice = "set option auto_helper '0' " + where
    if zones is None:
        advice = "'sysctl -w net.netfilter.nf_conntrack_helper=0' keeps them from it"
    return [
        "%s may announce ports outside of the port sets to servers, where nobody reaches them: %s"
        % (", ".join(loaded), advice)
    ]


def zones_with_helpers(sections, own):
    """Names of the zones whose flows fw4 gives to such modules.

    sections: list of uci.Section, fw4's config. own: name of the softwire's zone, which need not
    bother: it is what comes in there that they would look at.
    """
    defaults = [one.options.get("auto_helper") for one in sections if one.type == "defaults"]
    found = []
    for one in sections:
        options = one.options
        name = options.get("name")
        if one.type != "zone" or options.get("enabled") in _NO or name in (own, None):
            continue
        off = options.get("auto_helper") in _NO or [text for text in defaults if text in _NO]
        auto = not off and options.get("masq") not in _YES
        if auto or options.get("helper"):
            found.append(name)
    return found
