"""The lwAFTR's log of PCP datagrams, decoded for people by the codec that agent and lab share."""

import ipaddress

from cpe_agent.pcp import wire

OPCODES = {wire.OP_ANNOUNCE: "ANNOUNCE", wire.OP_MAP: "MAP", wire.OP_PEER: "PEER"}


def address_text(octets):
    """An address of 16 octets as text, IPv4 without its prefix."""
    if wire.is_v4(octets):
        return str(ipaddress.IPv4Address(octets[12:]))
    return str(ipaddress.IPv6Address(octets))


def decode(entry, offset):
    """One entry of the lwAFTR's log as a flat dict.

    offset: seconds to add to the log's time, which is the operator's uptime.
    """
    data = bytes.fromhex(entry["hex"])
    found = {
        "number": entry["number"],
        "at": round(entry["t_ms"] / 1000 + offset, 3),
        "direction": entry["direction"],
        "peer": entry["address"],
        "port": entry["port"],
        "hex": entry["hex"],
    }
    try:
        response = len(data) > 1 and data[1] & wire.RESPONSE_BIT
        message = wire.parse_response(data) if response else wire.parse_request(data)
    except wire.WireError as error:
        return {**found, "opcode": "?", "kind": "unreadable", "meaning": str(error)}
    found["kind"] = "response" if response else "request"
    found["opcode"] = OPCODES.get(message.opcode, str(message.opcode))
    found["lifetime"] = message.lifetime
    if response:
        found["result"] = wire.result_name(message.result)
        found["epoch"] = message.epoch
    if message.map:
        found.update(_map_fields(message))
    found["meaning"] = _meaning(found)
    return found


def _map_fields(message):
    fields = {
        "nonce": message.map.nonce.hex(),
        "protocol": message.map.protocol,
        "internal_port": message.map.internal_port,
        "external_port": message.map.external_port,
        "external_address": address_text(message.map.external_ip),
    }
    octets = wire.find_option(message.options, wire.OPT_PORT_SET)
    if octets is not None:
        option = wire.parse_port_set(octets)
        fields["set_size"] = option.size
        fields["first_internal"] = option.first_internal
        fields["parity"] = option.parity
    return fields


def _meaning(found):
    """One message in one line."""
    if found["opcode"] == "ANNOUNCE":
        return _announce(found)
    if found["opcode"] != "MAP":
        return found["opcode"]
    return _map_request(found) if found["kind"] == "request" else _map_response(found)


def _announce(found):
    if found["kind"] == "request":
        return "asks whether the server is still the same"
    if found["peer"].startswith("ff"):
        return f"tells everybody: my clock is at {found['epoch']} s"
    return f"tells this client: my clock is at {found['epoch']} s"


def _map_request(found):
    size = found.get("set_size", 1)
    if found["lifetime"] == 0:
        return "gives the set back"
    if not found["external_port"]:
        return f"asks for up to {size} ports" if size > 1 else "asks for one port"
    return f"asks for {range_text(found)} of {found['external_address']} again"


def _map_response(found):
    if found["result"] != "SUCCESS":
        return f"refused: {found['result']}; ask again in {found['lifetime']} s"
    if found["lifetime"] == 0:
        return "the set is taken back"
    where = f"{range_text(found)} of {found['external_address']}"
    return f"granted: {where} for {found['lifetime']} s"


def range_text(found):
    """The external ports of a MAP message."""
    first, size = found["external_port"], found.get("set_size", 1)
    # A request names the most that it would take; what it had before is not in it.
    if found["kind"] == "request" and first + size > 65536:
        return f"ports from {first} on"
    return f"ports {first}\u2013{first + size - 1}" if size > 1 else f"port {first}"
