"""What the agent knows, as plain values (for --json, and later ubus) and as lines for people."""

import sys

from cpe_agent import address, portset
from cpe_agent.pcp import mapping as m

VERSION = "0.1.0"

_STATES = {
    m.ASKING: "asking for a port set",
    m.REFUSED: "refused by the server",
    m.HELD: "up",
    m.RELEASING: "giving the set back",
    m.IDLE: "released",
}
_NEXT = {
    m.ASKING: "request",
    m.REFUSED: "request, when the server's waiting time is over",
    m.HELD: "renewal",
    m.RELEASING: "release, again",
}


def runtime():
    """Name and version of the Python that runs this."""
    name, version = sys.implementation.name, sys.implementation.version
    return "%s %d.%d.%d" % (name, version[0], version[1], version[2])


def snapshot(agent, now):
    """A dict of plain values. now: ms. Times are seconds unless their name says ms."""
    line = agent.line
    found = {
        "version": VERSION,
        "runtime": runtime(),
        "errors": _texts(agent.errors) + _texts(line.errors),
        "warnings": agent.config.warnings + line.backend.warnings(),
        "store_writes": agent.memory.writes,
        "timings": _timings(agent),
        "counts": {
            "sent": agent.sessions.counts["sent"],
            "received": agent.sessions.counts["received"],
            "renewals": line.renewals,
            "reconfigurations": line.reconfigurations,
        },
    }
    found.update(_line_of(line))
    found.update(_mapping_of(line, now))
    return found


def _texts(errors):
    return [errors[kind] for kind in sorted(errors)]


def _timings(agent):
    known = {
        "first_request_ms": agent.sessions.first_request,
        "response_to_nat_ms": agent.line.response_to_nat,
        "release_confirmed": agent.line.confirmed,
    }
    return {name: known[name] for name in known if known[name] is not None}


def _line_of(line):
    """What only a softwire has."""
    options, plan = line.options, line.backend.plan
    return {
        "softwire": options.name,
        "aftr": address.text(options.aftr) if options.aftr else None,
        "device": options.device,
        "underlay": line.path.device if line.path else None,
        "guards": line.backend.counters(),
        "mtu": plan.mtu if plan else None,
    }


def _mapping_of(keeper, now):
    """What every mapping has."""
    mapping = keeper.mapping
    found = {
        "state": _state(keeper),
        "server": address.text(keeper.server()),
        "source": address.text(keeper.path.source) if keeper.path else None,
    }
    if mapping and not keeper.released:
        found["next"] = {"what": _NEXT.get(mapping.state), "in": _seconds(mapping.timer(), now)}
        found["unanswered"] = mapping.unanswered
    if keeper.session:
        found["epoch"] = keeper.session.client.epoch.server
        found["dropped"] = keeper.session.client.dropped
    if mapping and mapping.grant:
        found.update(_grant(mapping.grant, keeper.since, now))
    return found


def _state(keeper):
    if not keeper.options.enabled:
        return "disabled"
    if keeper.mapping is None:
        return "released" if keeper.released else "waiting for the uplink"
    return _STATES[keeper.mapping.state]


def _grant(grant, since, now):
    port_set = grant.port_set
    return {
        "address": port_set.address,
        "first_port": port_set.first,
        "last_port": portset.last(port_set),
        "size": port_set.size,
        "lifetime": grant.lifetime,
        "remaining": _seconds(grant.expires, now),
        "age": _seconds(now, since or now),
    }


def _seconds(at, now):
    return None if at is None else max(0, at - now) // 1000


def lines(found):
    """A snapshot for people."""
    out = ["softwire '%s': %s" % (found["softwire"], found["state"])]
    if "address" in found:
        out.append(_line("address", found["address"]))
        ports = "%d-%d (%d)" % (found["first_port"], found["last_port"], found["size"])
        out.append(_line("ports", ports))
        age, remaining = _duration(found["age"]), _duration(found["remaining"])
        out.append(_line("held for", "%s; %s left" % (age, remaining)))
    out.append(_line("PCP server", _server(found)))
    if found["aftr"]:
        mtu = ", MTU %d" % found["mtu"] if found["mtu"] else ""
        out.append(_line("lwAFTR", "%s over %s%s" % (found["aftr"], found["device"], mtu)))
    following = found.get("next")
    if following and following["what"] and following["in"] is not None:
        text = "%s in %s" % (following["what"], _duration(following["in"]))
        if found["unanswered"]:
            text += "; %d unanswered" % found["unanswered"]
        out.append(_line("next", text))
    guards = found["guards"]
    if guards:
        out.append(_line("guards", ", ".join([_guard(name, guards) for name in sorted(guards)])))
    out += ["  warning: " + text for text in found["warnings"]]
    out += ["  error: " + text for text in found["errors"]]
    return out


_GUARD_TEXT = {
    "looped": "%d circling",
    "outside_in": "%d in",
    "outside_out": "%d out",
}


def _guard(name, guards):
    return _GUARD_TEXT[name] % guards[name] + " dropped"


def _server(found):
    text = found["server"]
    if found["source"]:
        text += " from " + found["source"]
    if found.get("epoch") is not None:
        text += ", epoch %d" % found["epoch"]
    return text


def _line(name, text):
    return "  %-11s %s" % (name, text)


def _duration(seconds):
    if seconds < 120:
        return "%d s" % seconds
    if seconds < 7200:
        return "%d min" % (seconds // 60)
    return "%d h %d min" % (seconds // 3600, seconds % 3600 // 60)
