"""What Wireshark's dissector says about the PCP messages of a capture."""

import collections
import subprocess
import xml.etree.ElementTree

_WARNING = 0x600000  # severity of Wireshark's expert items: warnings and errors are above this

# Size, and First Internal Port, which Wireshark calls an external one, under a name per direction.
_PORT_SET = (
    "portcontrol.option.portset.size",
    "portcontrol.option.portset.req_sug_first_external_port",
    "portcontrol.option.portset.rsp_assigned_first_external_port",
)

# messages: a dict of field names (portcontrol.*) and values per PCP message, with "frame",
# "time", "source" and "destination". malformed: a line per message that tshark finds fault with.
# port_sets: (frame, size, first internal port) of each option that tshark names a port set.
Report = collections.namedtuple("Report", ("messages", "malformed", "port_sets"))


def tshark_pcp_report(pcap):
    """Report on a capture file. Raises CalledProcessError when tshark cannot read it."""
    done = subprocess.run(
        [
            "tshark",
            *("-r", str(pcap)),
            *("-o", "udp.check_checksum:TRUE"),
            *("-Y", "udp.port == 5351 or udp.port == 5350"),
            *("-T", "pdml"),
        ],
        check=True,
        capture_output=True,
    )
    report = Report([], [], [])
    for packet in xml.etree.ElementTree.fromstring(done.stdout).iter("packet"):
        _read(packet, report)
    return report


def _read(packet, report):
    fields = list(packet.iter("field"))
    first = {}
    for field in fields:
        first.setdefault(field.get("name"), field)
    frame = int(packet.find("proto[@name='geninfo']/field[@name='num']").get("show"))
    for fault in dict.fromkeys(_faults(packet, fields)):
        report.malformed.append("frame %d: %s" % (frame, fault))
    if not _is_pcp(packet):
        return
    message = {
        "frame": frame,
        "time": float(first["timestamp"].get("value")),
        "source": first["ipv6.src" if "ipv6.src" in first else "ip.src"].get("show"),
        "destination": first["ipv6.dst" if "ipv6.dst" in first else "ip.dst"].get("show"),
    }
    for name, field in first.items():
        if name.startswith("portcontrol."):
            message[name[len("portcontrol.") :]] = field.get("show")
    report.messages.append(message)
    for option in fields:
        if option.get("name") == "portcontrol.option" and "Port Set" in option.get("showname"):
            values = {field.get("name"): field.get("show") for field in option.iter("field")}
            port_set = [int(values[name]) for name in _PORT_SET if name in values]
            if len(port_set) == 2:  # less is a fault, which has been noted
                report.port_sets.append((frame, *port_set))


def _is_pcp(packet):
    return packet.find("proto[@name='portcontrol']") is not None


def _faults(packet, fields):
    """What tshark complains about, and what it reads over: the lengths that RFC 7753 4 and RFC 6887
    7 ask for."""
    for field in fields:
        if field.get("name") == "portcontrol.option" and "Port Set" in field.get("showname"):
            length = field.find("field[@name='portcontrol.option.length']")
            if length is None or length.get("show") != "5" or field.get("size") != "12":
                yield "PORT_SET of another length than 5"
        if field.get("name") == "udp.length" and _is_pcp(packet):
            octets = int(field.get("show")) - 8
            if octets % 4 or octets > 1100:
                yield "%d octets" % octets
    for proto in packet.iter("proto"):
        if proto.get("name") == "_ws.malformed":
            yield "malformed"
    for field in fields:
        if field.get("name") == "udp.checksum.status" and field.get("show") == "0":
            yield "bad UDP checksum"
        if field.get("name") == "_ws.expert":
            inner = {one.get("name"): one for one in field.iter("field")}
            if int(inner["_ws.expert.severity"].get("show")) >= _WARNING:
                yield inner["_ws.expert.message"].get("show")
