#!/usr/bin/env python3
"""The demo's report: one HTML file with everything in it, for a browser without a network.

render() makes it from what demo.py keeps in story.json; `report.py FOLDER` does so again.
"""

import json
import sys
import time
from html import escape
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import demo_pictures as pictures  # noqa: E402  (modules beside this script, not installed)
from demo_pictures import tag  # noqa: E402

DASH = "\u2013"
TIMES = "\u00d7"
STYLE = (HERE / "demo_report.css").read_text()


def rows(lines, head=None):
    """A table out of lists of cells, which are HTML already."""
    top = tag("thead", tag("tr", "".join(tag("th", cell) for cell in head))) if head else ""
    body = "".join(tag("tr", "".join(tag("td", cell) for cell in cells)) for cells in lines)
    return tag("table", top + tag("tbody", body))


def section(title, lead, *content):
    return tag("section", tag("h2", title) + tag("p", lead, class_="lead") + "".join(content))


def range_words(one):
    return f"{one['first_port']}{DASH}{one['first_port'] + one['size'] - 1}"


def mono(words):
    return tag("code", escape(str(words)))


# ---------------------------------------------------------------------------- head


def _head(record):
    result = record["result"]
    granted = result["granted"]
    others = len(record["neighbours"])
    lead = (
        f"A home router, running MicroPython, asked its operator for ports by PCP. It was given "
        f"ports <b>{range_words(granted)}</b> of <b>{granted['address']}</b>, an address that "
        f"{others} neighbours share, and kept all its traffic inside them. After a power cut, and "
        "after the operator's box had lost all state, it had the same ports again without a hand."
    )
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record["started"]))
    verdict = f"All {len(record['steps'])} steps went as they must, in {result['total_s']:.0f} s"
    return (
        tag("p", f"cpe-agent {escape(result['agent_version'])} · demo of {when}", class_="kicker")
        + tag("h1", "A router that lives inside its port set")
        + tag("p", f"<b class=tick>✔</b> {verdict}", class_="verdict")
        + tag("p", lead, class_="lead")
        + tag("div", "".join(_tiles(result)), class_="tiles")
    )


def _tiles(result):
    granted = result["granted"]
    yield _tile(range_words(granted), f"{granted['size']} ports of {granted['address']}", "granted")
    yield _tile(
        _same(result["same_after_power_cut"]),
        f"ports {result['power_cut_to_grant_s']:.1f} s after the power cut, boot included",
        "power cut",
    )
    yield _tile(
        _same(result["same_after_lwaftr_loss"]),
        f"ports {result['lwaftr_loss_to_grant_s']:.1f} s after the lwAFTR forgot all",
        "state loss",
    )
    yield _tile(
        f"{result['packets_inside_set']} / {result['packets_outside_set']}",
        "packets inside / outside the set, counted by the lwAFTR",
        "discipline",
    )


def _tile(figure, words, name):
    content = tag("span", name, class_="name") + tag("b", escape(figure)) + escape(words)
    return tag("div", content, class_="tile")


def _same(flag):
    return "the same" if flag else "others"


# ---------------------------------------------------------------------------- pictures


def _topology(record):
    granted = record["result"]["granted"]
    words = f"{granted['address']}:{range_words(granted)}"
    picture = pictures.topology(record["addresses"], words, len(record["neighbours"]))
    lead = (
        "Two virtual machines: the router, and one that plays everything else. The router's NAT "
        "is the only one; the lwAFTR keeps no flows, only who may use which ports."
    )
    return section("Who talks to whom", lead, picture)


def _timeline(record):
    lead = (
        "Seconds since the start. The gap in the traffic at each dashed line is the outage; "
        "nobody did anything to end it."
    )
    picture = pictures.timeline(record, record["result"]["total_s"])
    details = [
        [str(number), escape(step["title"]), "<br>".join(map(escape, step["details"]))]
        for number, step in enumerate(record["steps"], 1)
    ]
    found = tag("details", tag("summary", "What each step found") + rows(details))
    return section("The story", lead, picture, found)


def _ports(record):
    result = record["result"]
    granted, used = result["granted"], record["used_ports"]
    default = result["default_after_loss"]
    size = granted["size"]
    legend = "".join(
        tag("span", tag("i", "", class_=name) + escape(words))
        for name, words in (
            ("own", "our router"),
            ("neighbour", f"{len(record['neighbours'])} neighbours"),
            ("system", "never assigned"),
            ("free", "free"),
        )
    )
    counts = "".join(
        tag("span", tag("i", "", class_=name) + f"{result['ports_used'][name]} {name.upper()}")
        for name in sorted(result["ports_used"])
    )
    lead = (
        f"All 65,536 ports of {granted['address']} at the end of the story, and the set of our "
        f"router enlarged. After the loss, a neighbour who suggested nothing was given "
        f"{range_words(default)}: our router got {range_words(granted)} back because it suggested "
        "them, not by chance."
    )
    whole = tag("h3", "The address") + pictures.port_space(granted, record["neighbours"], size)
    inside = tag("h3", f"The set: {size} ports, by use") + pictures.port_set(granted, used)
    return section(
        "One address, many homes",
        lead,
        tag(
            "div",
            tag("figure", whole + tag("figcaption", legend))
            + tag("figure", inside + tag("figcaption", counts)),
            class_="pair",
        ),
    )


# ---------------------------------------------------------------------------- messages


def _step_of(record, at):
    """Number of the step that was running, 1 or more."""
    started = [step["at"] for step in record["steps"]]
    return max(1, sum(begin <= at for begin in started))


def grouped(messages, record):
    """Runs of announcements as one: [(message, how many, last time)]."""
    found = []
    for message in messages:
        if found and message["opcode"] == "ANNOUNCE":
            before, count, _ = found[-1]
            same = before["opcode"] == "ANNOUNCE" and message["epoch"] >= before["epoch"]
            steps = [_step_of(record, one["at"]) for one in (before, message)]
            if same and steps[0] == steps[1]:
                found[-1] = (before, count + 1, message["at"])
                continue
        found.append((message, 1, message["at"]))
    return found


HEADS = ["s", "", "message", "meaning", "lifetime", "epoch", "external", "PORT_SET",
         "nonce"]  # fmt: skip


def _with_loss(messages):
    """The messages; those whose epoch fell say what that means (RFC 6887 8.5)."""
    before, found = 0, []
    for message in messages:
        epoch = message.get("epoch")
        if epoch is not None and epoch < before:
            message = {**message, "lost": f"it was at {before} s before: all state is lost"}
        before = before if epoch is None else epoch
        found.append(message)
    return found


def _meaning(message):
    lost = message.get("lost")
    return escape(message["meaning"]) + (f"; <b>{escape(lost)}</b>" if lost else "")


def _message_cells(message, count, last):
    out = message["direction"] == "out"
    kind = message["opcode"] + (f" {TIMES}{count}" if count > 1 else "")
    arrow = tag("span", "▼" if out else "▲", class_="in" if not out else "out")
    size = message.get("set_size")
    option = f"{size} ports, internal {message['first_internal']}" if size else ""
    seconds = f"{message['at']:.2f}" + (f"{DASH}{last:.2f}" if count > 1 else "")
    return [
        seconds,
        arrow,
        escape(f"{kind} {message['kind']}"),
        _meaning(message) + _octets(message["hex"]),
        str(message["lifetime"]) if "nonce" in message else "",
        str(message.get("epoch", "")),
        _external(message),
        escape(option),
        mono(message["nonce"][:8] + "…") if "nonce" in message else "",
    ]


def _external(message):
    """The external address and port, as far as the message names them."""
    if message.get("external_port"):
        return mono(f"{message['external_address']}:{message['external_port']}")
    asking = message["kind"] == "request" and message.get("lifetime")
    return tag("span", "no wish", class_="quiet") if asking and "nonce" in message else ""


def _octets(octets):
    """The message as hex, cut into its parts."""
    parts = [("header", octets[:48]), ("MAP", octets[48:120]), ("option", octets[120:])]
    lines = [f"{name:<7}{_spaced(part)}" for name, part in parts if part]
    summary = tag("summary", f"{len(octets) // 2} octets")
    return tag("details", summary + tag("pre", "\n".join(lines)))


def _spaced(octets):
    words = [octets[at : at + 8] for at in range(0, len(octets), 8)]
    blocks = [" ".join(words[at : at + 4]) for at in range(0, len(words), 4)]
    return ("\n" + " " * 7).join(blocks)


def _message_table(record, messages):
    lines, step = [], 0
    for message, count, last in grouped(_with_loss(messages), record):
        now = _step_of(record, message["at"])
        if now != step:
            step = now
            title = f"{step}. {escape(record['steps'][step - 1]['title'])}"
            lines.append(tag("tr", tag("th", title, colspan=len(HEADS)), class_="step"))
        cells = "".join(tag("td", cell) for cell in _message_cells(message, count, last))
        lines.append(tag("tr", cells))
    head = tag("thead", tag("tr", "".join(tag("th", name) for name in HEADS)))
    return tag("div", tag("table", head + tag("tbody", "".join(lines))), class_="wide")


def _messages(record):
    router = record["result"]["router"]
    ours, others = [], []
    for one in record["messages"]:
        own = one["peer"] == router or one["opcode"] == "ANNOUNCE"
        (ours if own else others).append(one)
    lead = (
        f"{len(record['messages'])} datagrams as the lwAFTR saw them: ▲ from the router, ▼ to it. "
        "The nonce stays the same over the power cut: it is on the flash, and without it the "
        "server would refuse. The epoch that starts again at 0 tells of the lost state."
    )
    rest = tag(
        "details",
        tag("summary", f"The neighbours' messages ({len(others)})")
        + _message_table(record, others),
    )
    return section("The PCP messages", lead, _message_table(record, ours), rest)


# ---------------------------------------------------------------------------- figures


def _figures(record):
    result = record["result"]
    lines = [[escape(name), tag("b", escape(figure)), escape(meaning)]
             for name, figure, meaning in _meanings(result)]  # fmt: skip
    lead = (
        "Read from the router, from the lwAFTR or from the wire in this run; the times under "
        "emulation, which is slower than the machines that it plays."
    )
    table = rows(lines, ["what", "measured", "what it means"])
    return section("The figures", lead, tag("div", table, class_="figures"))


def _meanings(result):
    return [
        (
            "Start to first request",
            f"{result['first_request_ms']} ms",
            "from the start of the agent's process to its first datagram; "
            f"{result['first_request_ms_after_power_cut']} ms right after the power cut, while "
            "the router still boots",
        ),
        (
            "Response to NAT",
            f"{result['response_to_nat_ms']} ms",
            "from the server's response to softwire, route, NAT rules and guards in place",
        ),
        (
            "Power cut to grant",
            f"{result['power_cut_to_grant_s']:.1f} s",
            f"the router's boot is in it ({result['cpe_reboot_s']:.1f} s)",
        ),
        (
            "lwAFTR's loss to grant",
            f"{result['lwaftr_loss_to_grant_s']:.1f} s",
            "with the random wait of up to 5 s that keeps thousands of routers from asking at once",
        ),
        (
            "TCP, UDP, ping, HTTP",
            " ".join(
                "✔" if result[name] else "✘" for name in ("tcp_ok", "udp_ok", "icmp_ok", "http_ok")
            ),
            "each answered at first, again after the power cut and after the loss; every port "
            "that the far side saw was one of the set",
        ),
        (
            "Packets inside / outside",
            f"{result['packets_inside_set']} / {result['packets_outside_set']}",
            "the lwAFTR's own count over the whole story; in the capture of the access link "
            f"{result['captured_inside_set']} / {result['captured_outside_set']}, with the "
            f"{result['packets_while_unknown']} that came while it knew nobody",
        ),
        (
            "Foreign packet",
            f"{result['foreign_packets_counted']} of {result['foreign_packets_sent']} caught",
            "sent at the end from a neighbour's port: the counter above can count",
        ),
        (
            "Dropped by the router's guards",
            str(result["guards_dropped"]),
            "packets that left the NAT outside the set, came in outside it, or would have circled",
        ),
        (
            "Flows over a renewal",
            "survive" if result["flows_surviving_renewal"] else "break",
            f"a TCP connection from before carries data after {result['renewals']} renewals, and "
            "over the lwAFTR's loss " + ("too" if result["flows_surviving_lwaftr_loss"] else "not"),
        ),
        (
            "Changes by a renewal",
            str(result["network_events_during_renewals"]),
            "events of addresses, routes, links and nft rules that the kernel reported",
        ),
        (
            "Flash writes per renewal",
            f"{result['flash_writes_per_renewal']:g}",
            f"write requests to the flash disk ({result['flash_sectors_per_renewal']:g} sectors); "
            f"the first grant took {result['flash_writes_first_grant']}",
        ),
        (
            "Memory",
            f"{result['agent_rss_kb']} kB",
            f"of the agent's process, {result['agent_private_kb']} kB of it its own; the router "
            f"has {result['router_memory_kb'] // 1024} MB",
        ),
    ]


# ---------------------------------------------------------------------------- foot


def _foot(record):
    result = record["result"]
    versions = {
        "agent": result["agent_version"],
        "runtime": result["runtime"],
        "router's kernel": f"Linux {result['kernel']}",
        **result["versions"],
    }
    words = ", ".join(f"{escape(name)} {escape(value)}" for name, value in versions.items())
    log = "\n".join(f"{one['at']:7.2f}  {one['text']}" for one in record["agent_log"])
    captures = (
        "Beside this file: access.pcap (PCP and the softwire) and home.pcap (the LAN), for "
        "Wireshark or tshark; result.json; both machines' consoles."
    )
    return section(
        "What it ran on",
        words + ". " + captures,
        tag("details", tag("summary", "What the agent said") + tag("pre", escape(log))),
    )


def render(record):
    """The report as text. record: what demo.py writes to story.json."""
    body = "".join(
        part(record) for part in (_head, _topology, _timeline, _ports, _messages, _figures, _foot)
    )
    granted = record["result"]["granted"]
    title = f"cpe-agent demo: {granted['address']} {range_words(granted)}"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>\n{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{body}</main></body>\n'


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "build" / "demo"
    record = json.loads((folder / "story.json").read_text())
    (folder / "report.html").write_text(render(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
