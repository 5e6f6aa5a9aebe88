"""What the agent knows, as plain values (for --json, and later ubus) and as lines for people."""

import sys

from cpe_agent import address, flows, portset
from cpe_agent.pcp import mapping as m
from cpe_agent.pcp import wire

VERSION = "0.1.0"

ASKING, UP, RELEASED, DISABLED = "asking for a port set", "up", "released", "disabled"
NO_PORT = "without a port"
_STATES = {
    m.ASKING: ASKING,
    m.REFUSED: "refused by the server",
    m.HELD: UP,
    m.RELEASING: "giving the set back",
    m.IDLE: RELEASED,
}
_PROTOCOLS = {wire.PROTO_ALL: "all", wire.PROTO_TCP: "tcp", wire.PROTO_UDP: "udp"}
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
        "errors": _texts(agent.errors),
        "warnings": list(agent.config.warnings),
        "store_writes": agent.memory.writes,
        "timings": _timings(agent),
        "counts": dict(agent.sessions.counts),
        "mappings": [_ports_of(ports, now) for ports in agent.ports],
    }
    if line:
        found["errors"] += _texts(line.errors)
        found["warnings"] += line.backend.warnings()
        found["counts"]["renewals"] = line.renewals
        found["counts"]["reconfigurations"] = line.reconfigurations
        found.update(_line_of(line))
        found.update(_mapping_of(line, now))
        found["additional_sets"] = [_additional(one, line.sets, now) for one in line.sets.holders()]
        found["forwards"] = [_forward(one, line.backend.plan) for one in line.forwards]
    return found


def _texts(errors):
    return [errors[kind] for kind in sorted(errors)]


def _timings(agent):
    known = {
        "first_request_ms": agent.sessions.first_request,
        "response_to_nat_ms": agent.line.response_to_nat if agent.line else None,
        "release_confirmed": _confirmed([keeper.confirmed for keeper in agent.keepers()]),
    }
    return {name: known[name] for name in known if known[name] is not None}


def _confirmed(answers):
    """True if every server that was told of a release confirmed it, None if none was told."""
    told = [answer for answer in answers if answer is not None]
    return all(told) if told else None


def _ports_of(ports, now):
    """A mapping that is no softwire's."""
    options = ports.options
    found = {
        "name": options.name,
        "protocol": _PROTOCOLS[options.protocol],
        "internal_port": options.internal_port,
        "ports": options.ports,
        "errors": _texts(ports.errors),
    }
    if options.internal_address:
        found["internal_address"] = address.text(options.internal_address)
    found.update(_mapping_of(ports, now))
    return found


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


def usage(counted):
    """What a usage.Usage has counted, with its sets."""
    shown = [{"first_port": one.first, "last_port": portset.last(one)} for one in counted.sets]
    full = flows.fullness(counted.found, counted.sets)
    return dict(counted.found, sets=shown, full=full, lost=flows.flows_lost())


def usage_lines(found):
    """Such a count for people."""
    sets = ", ".join(["%d-%d" % (one["first_port"], one["last_port"]) for one in found["sets"]])
    out = ["%d %% of the ports are needed; ports: %s" % (found["full"], sets)]
    for name in ("tcp", "udp", "icmp"):
        one = found["protocols"][name]
        ports = ", ".join([str(count) for count in one["ports"]])
        text = "%d flows; ports in use of each set: %s" % (one["flows"], ports)
        if "crowded" in one:
            place = one["crowded"]
            where = place["address"] + (":%d" % place["port"] if "port" in place else "")
            text += "; at most %d to one place (%s)" % (place["flows"], where)
        out.append(_line(name, text))
    for host in found["hosts"]:
        out.append(_line("host", "%(address)s: %(ports)d ports, %(flows)d flows" % host))
    rest = found["rest"]
    if rest["flows"]:
        out.append(_line("others", "%(ports)d ports, %(flows)d flows" % rest))
    if found["lost"]:
        out.append(_line("lost", "%d times a flow found no free port since boot" % found["lost"]))
    if not found["whole"]:
        out.append("  the flows changed meanwhile: some may not be counted")
    return out


def _additional(holder, held, now):
    """A port set beside the first one."""
    mapping = holder.mapping
    found = {"state": ASKING}
    if mapping and mapping.grant:
        found["state"] = held.state_of(holder)
        found.update(_grant(mapping.grant, holder.since, now))
    return found


def _forward(wanted, plan):
    """A config.Forward, and what has become of it."""
    found = {
        "name": wanted.name,
        "state": ASKING if wanted.enabled else DISABLED,
        "proto": list(wanted.proto),
        "dest_port": wanted.dest_port,
    }
    if wanted.dest_ip:
        found["dest_ip"] = wanted.dest_ip
    for one in plan.forwards if plan else ():
        if one.name == wanted.name and one.problem:
            found.update({"state": NO_PORT, "error": one.problem})
        elif one.name == wanted.name:
            known = {"state": UP, "address": one.address, "external_port": one.port}
            found.update(known, proto=list(one.proto))
    return found


def _mapping_of(keeper, now):
    """What every mapping has."""
    mapping = keeper.mapping
    found = {
        "state": _state(keeper),
        "server": address.text(keeper.server()) if keeper.server() else None,
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
        return DISABLED
    if keeper.mapping is None:
        if keeper.released:
            return RELEASED
        return "waiting for the uplink" if keeper.server() else "waiting for a PCP server"
    return _STATES[keeper.mapping.state]


def _grant(grant, since, now):
    port_set = grant.port_set
    return {
        "address": port_set.address,
        "first_port": port_set.first,
        "last_port": portset.last(port_set),
        "size": port_set.size,
        "first_internal": grant.first_internal,
        "lifetime": grant.lifetime,
        "remaining": _seconds(grant.expires, now),
        "age": _seconds(now, since or now),
    }


def _seconds(at, now):
    return None if at is None else max(0, at - now) // 1000


def is_held(found):
    """True if the snapshot shows a port set; without a softwire, if all mappings are held."""
    if "softwire" in found:
        return "address" in found
    wanted = [one for one in found["mappings"] if one["state"] != DISABLED]
    return bool(wanted) and all("address" in one for one in wanted)


def is_released(found):
    """True if nothing is held or asked for any more."""
    states = [one["state"] for one in [found] + found["mappings"] if "state" in one]
    return not [state for state in states if state not in (RELEASED, DISABLED)]


def lines(found):
    """A snapshot for people."""
    out = []
    if "softwire" in found:
        out.append("softwire '%s': %s" % (found["softwire"], found["state"]))
        out += _set_lines(found) + _additional_lines(found["additional_sets"])
        out += [_line("PCP server", _server(found))] + _line_lines(found)
        out += _next_lines(found)
        out += [_line("forward", _forward_text(one)) for one in found["forwards"]]
    out += ["  warning: " + text for text in found["warnings"]]
    out += ["  error: " + text for text in found["errors"]]
    for one in found["mappings"]:
        out.append("mapping '%s': %s" % (one["name"], one["state"]))
        out += [_line("internal", _internal(one))] + _set_lines(one)
        out += [_line("PCP server", _server(one))] + _next_lines(one)
        out += ["  error: " + text for text in one["errors"]]
    return out or ["nothing is configured"]


def external(found):
    """Address and ports that a snapshot shows, in one line."""
    return portset.text(portset.PortSet(found["address"], found["first_port"], found["size"]))


def _set_lines(found):
    if "address" not in found:
        return []
    ports = "%d-%d (%d)" % (found["first_port"], found["last_port"], found["size"])
    held = "%s; %s left" % (_duration(found["age"]), _duration(found["remaining"]))
    return [_line("address", found["address"]), _line("ports", ports), _line("held for", held)]


def _additional_lines(sets):
    return [_line("more ports", _additional_text(one)) for one in sets]


def _additional_text(one):
    if "address" not in one:
        return one["state"]
    return "%d-%d (%d), %s" % (one["first_port"], one["last_port"], one["size"], one["state"])


def _forward_text(one):
    where = "%s port %d" % (one.get("dest_ip", "this router"), one["dest_port"])
    if "external_port" in one:
        outside = "%s port %d" % (one["address"], one["external_port"])
        return "'%s': %s (%s) leads to %s" % (one["name"], outside, ", ".join(one["proto"]), where)
    return "'%s' to %s: %s" % (one["name"], where, one.get("error", one["state"]))


def _line_lines(found):
    out = []
    if found["aftr"]:
        mtu = ", MTU %d" % found["mtu"] if found["mtu"] else ""
        out.append(_line("lwAFTR", "%s over %s%s" % (found["aftr"], found["device"], mtu)))
    guards = found["guards"]
    if guards:
        out.append(_line("guards", ", ".join([_guard(name, guards) for name in sorted(guards)])))
    return out


def _next_lines(found):
    following = found.get("next")
    if not following or not following["what"] or following["in"] is None:
        return []
    text = "%s in %s" % (following["what"], _duration(following["in"]))
    if found["unanswered"]:
        text += "; %d unanswered" % found["unanswered"]
    return [_line("next", text)]


def _internal(one):
    first = one.get("first_internal", one["internal_port"])
    ports = "%s %d" % (one["protocol"], first)
    if one.get("size", one["ports"]) > 1:
        ports += "-%d" % min(first + one.get("size", one["ports"]) - 1, 65535)
    return ports + (" of " + one["internal_address"] if "internal_address" in one else "")


_GUARD_TEXT = {
    "looped": "%d circling",
    "outside_in": "%d in",
    "outside_out": "%d out",
    "over_limit": "%d beyond a host's limit",
    "refused": "%d of protocols that cannot pass",
}


def _guard(name, guards):
    return _GUARD_TEXT[name] % guards[name] + " dropped"


def _server(found):
    text = found["server"] or "none known"
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
