"""What went wrong, in words that say what happens next and what a person can do. Pure."""

from cpe_agent.pcp import wire

_OPERATOR = "if it lasts, give the operator this line"

# By result code (RFC 6887 7.4): what it means here, and what to do.
_REFUSALS = {
    wire.UNSUPP_VERSION: (
        "it speaks another version of PCP",
        "check that option server names a PCP server",
    ),
    wire.NOT_AUTHORIZED: (
        "it holds a mapping of ours that was made with another nonce, or does not know this line",
        "a lost state file cures itself when that mapping ends; " + _OPERATOR,
    ),
    wire.MALFORMED_REQUEST: (
        "it does not accept the form of the request",
        "try option internal_port '0', or option protocol 'udp'",
    ),
    wire.UNSUPP_OPCODE: ("it gives no mappings to this line", _OPERATOR),
    wire.UNSUPP_OPTION: ("it refuses an option of the request", _OPERATOR),
    wire.MALFORMED_OPTION: (
        "it does not accept the PORT_SET option",
        "check that option server names a server that gives port sets; " + _OPERATOR,
    ),
    wire.NETWORK_FAILURE: ("its own network has failed", "nothing; it is tried again"),
    wire.NO_RESOURCES: ("it has no ports left", "nothing; it is tried again; " + _OPERATOR),
    wire.UNSUPP_PROTOCOL: (
        "it does not map this protocol",
        "try option protocol 'udp', or option internal_port '0'",
    ),
    wire.USER_EX_QUOTA: ("this line has all the ports that it may have", _OPERATOR),
    wire.CANNOT_PROVIDE_EXTERNAL: ("it cannot give that port", "nothing; it is tried again"),
    wire.ADDRESS_MISMATCH: (
        "it sees another source address than we do: a NAT stands between",
        "set option source to an address that the operator routes",
    ),
    wire.EXCESSIVE_REMOTE_PEERS: ("too many filters", _OPERATOR),
}


def refused(result, server, seconds):
    """A refusal by a server (text); seconds until it is asked again."""
    meaning, action = _REFUSALS.get(result, ("for a reason of its own", _OPERATOR))
    return "the PCP server %s refused (%s): %s; asking again in %d s; %s" % (
        server,
        wire.result_name(result),
        meaning,
        seconds,
        action,
    )


def plain(server):
    """The server cannot read PORT_SET."""
    return "the PCP server %s does not understand PORT_SET; asking for one port" % server


def other_form(server):
    """The server holds to RFC 6887 11.1 where RFC 7753 5.2 asks otherwise."""
    return "the PCP server %s wants internal port 0 with all protocols; asking so" % server


def silent(server, requests, dropped):
    """Nobody answers, or only with what is no answer. dropped: {reason: datagrams}."""
    reasons = ["%d %s" % (dropped[reason], reason) for reason in sorted(dropped) if dropped[reason]]
    if reasons:
        return (
            "the PCP server %s sends what is no answer to us (%s); %d requests are unanswered; "
            "still asking; what was in use before stays; give the operator this line"
            % (server, ", ".join(reasons), requests)
        )
    return (
        "the PCP server %s is silent after %d requests; still asking; check that it is the "
        "right address, and that UDP port 5351 is open on the way" % (server, requests)
    )


def no_source(source, error):
    """The source address cannot be used (text)."""
    return (
        "cannot send from %s: %s; waiting until this machine has that address; check option source"
        % (source, error)
    )


def better(server, current):
    """A server that ranks before the one that serves us answers again."""
    return (
        "the better PCP server %s is back; the set is kept with %s until its lease ends; "
        "'cpe-agent release' and 'cpe-agent renew' go over at once" % (server, current)
    )


def no_server(names):
    """Nobody can be asked now. names: (host name, why it is not known or None)."""
    reasons = ["%s: %s" % (name, why) for name, why in names if why]
    if reasons:
        return "no PCP server can be asked: %s; still asking for the name" % "; ".join(reasons)
    return "no PCP server can be asked now; waiting for the next round; check option server"


def nobody_told(error, names):
    """A release that no server has heard of. names: (host name, why it is not known or None)."""
    reasons = ["%s: %s" % (name, why or "no name server answers") for name, why in names]
    return "nobody can be told: %s; run 'cpe-agent release' again when that is mended" % (
        "; ".join(reasons) or error
    )


def overlap(server, error):
    """Another mapping of ours is in the way."""
    return "cannot be asked for at %s: %s; give it other internal ports" % (server, error)


def put_off(server, error):
    """The softwire's internal ports are in the way of a mapping, and it comes first."""
    return (
        "put off: the softwire comes first at %s: %s; it comes back by itself when they do not "
        "meet any more; give it other internal ports, or another server" % (server, error)
    )


def unique_local(source):
    """RFC 6887 8.4: such an address should not ask, since a mapping for it is of little use."""
    return (
        "asking from %s, an address that the Internet does not know; set option source to a global "
        "address if there is one" % source
    )


def deaf(what, error):
    """A listener that is not needed to get a line cannot be opened."""
    return "cannot listen for %s: %s; a loss on the other side is noticed later" % (what, error)


def no_listener(server):
    """ICMP port unreachable came back."""
    return (
        "%s is there, but no PCP server listens on its UDP port 5351; still asking; check option "
        "aftr or server" % server
    )


def no_route(server):
    """The kernel knows no way to the server."""
    return (
        "no route to the PCP server %s; waiting for the IPv6 uplink; check the WAN interface"
        % server
    )


def unusable(server, reason, seconds):
    """A grant that no softwire can live on."""
    return (
        "the PCP server %s gave a mapping that cannot be used: %s; what was in use before stays; "
        "asking again in %d s; give the operator this line" % (server, reason, seconds)
    )


def backend_failed(error, seconds):
    """A command of the network set-up failed."""
    return "%s; trying again in %d s" % (error, seconds)


def by_kernel(output):
    """What to do where nft refuses rules for want of something in the kernel; empty if it is not
    known. output: nft's, which quotes the rule."""
    if "ct timeout" not in output:
        return ""
    return (
        " (this kernel has no timeouts of single flows, CONFIG_NF_CONNTRACK_TIMEOUT: set option"
        " flow_timeouts 'keep')"
    )


def bad_config(path, error):
    """The config file cannot be used."""
    return "%s: %s; running on the last good configuration until it is corrected" % (path, error)


def whole_address():
    """No additional set is possible where the first one is for internal port 0."""
    return (
        "the server knows the port set by internal port 0, which stands for all ports, so no more"
        " can be asked for; see option internal_port"
    )


def nearly_full(percent, hosts):
    """Ports are about to run out. hosts: of flows.Census.summary()."""
    text = "%d %% of the ports are in use; new connections may fail soon" % percent
    if hosts:
        text += "; %s has most of them, %d" % (hosts[0]["address"], hosts[0]["ports"])
    return text
