"""The tables of docs/nat.md, between their markers, and the plots beside it."""

import platform
import statistics
import subprocess
from pathlib import Path
from xml.sax.saxutils import escape

from tests.bench.nat import measure, ways

BEGIN, END = "<!-- written by make bench-nat -->\n", "<!-- end of what it wrote -->\n"
BASE = ways.WAYS[0].name
GOAL = 0.97
COLOURS = ("#2471a3", "#e67e22", "#229954")
_WIDTH, _LEFT, _BAR = 760, 190, 11
_TEXT = '<text x="%d" y="%d" font-size="%d" text-anchor="%s" fill="#333">%s</text>'
_RECT = '<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>'


def ratio(cost, way, what):
    """Median over the rounds of how many a way does in the CPU time of masquerade's one."""
    pairs = zip(cost[BASE], cost[way])
    return statistics.median(base[what]["ns"] / mine[what]["ns"] for base, mine in pairs)


def median(cost, way, what, name="ns"):
    """Median over the rounds."""
    return statistics.median(sample[what][name] for sample in cost[way])


def write(path, result):
    """Replace what is between the markers of a page, and write the plots beside it."""
    text = path.read_text()
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(head + BEGIN + _body(result) + END + tail)
    for name, draw in (("nat-flows.svg", _flows), ("nat-speed.svg", _speed)):
        (path.parent / name).write_text(draw(result))


def _machine():
    model = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    nft = subprocess.run(["nft", "--version"], check=True, capture_output=True, text=True).stdout
    return "%s, Linux %s, %s" % (
        model[0] if model else platform.machine(),
        platform.release(),
        " ".join(nft.split()[:2]),
    )


def _body(result):
    rounds = len(next(iter(result.values()))["cost"][BASE])
    out = ["\nMeasured on: %s; %d rounds.\n" % (_machine(), rounds)]
    for kind, found in result.items():
        out += ["\n**%s**: what users see\n\n" % kind.capitalize(), _seen_table(found["seen"])]
    for kind, found in result.items():
        out += ["\n**%s**: what it costs\n\n" % kind.capitalize(), _cost_table(found["cost"])]
    return "".join(out) + "\n"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| %s |\n" % " | ".join(line) for line in lines)


def _name(way):
    return way.name if way.used else "*%s*" % way.name


def _seen_table(seen):
    head = ["", "UDP flows to one place", "with others between", "TCP", "with others between"]
    head += ["endpoints kept", "shuffled", "%d of them" % measure.FEW, "pings"]
    rows = []
    for way in ways.WAYS:
        mine = seen[way.name]
        row = [_name(way)]
        for what in ("udp_quiet", "udp_lively", "tcp_quiet", "tcp_lively"):
            row.append("%(before_loss)d (%(passed)d)" % mine[what])
        for what in ("same_order", "shuffled", "few"):
            lost = ", %.0f %% lost" % (100 * mine[what]["lost"]) if mine[what]["lost"] else ""
            row.append("%.1f %%%s" % (100 * mine[what]["kept"], lost))
        rows.append([*row, "%d of 50" % mine["pings"]])
    return _table(head, rows)


def _cost_table(cost):
    head = ["", "packets of one flow", "new flows, busy", "new flows, scattered"]
    head += ["kernel memory a scattered flow"]
    rows = []
    for way in ways.WAYS:
        row = [_name(way)]
        for what in ("packet", "busy", "scattered"):
            lost = 1 - median(cost, way.name, what, "share")
            row.append(
                "%.0f ns, %.2f%s"
                % (
                    median(cost, way.name, what),
                    ratio(cost, way.name, what),
                    " (%.0f %% lost)" % (100 * lost) if lost > 0.005 else "",
                )
            )
        octets = [sample["memory"] for sample in cost[way.name] if "memory" in sample]
        rows.append([*row, "%.0f octets" % statistics.median(octets)])
    return _table(head, rows)


def _flows(result):
    series = [
        (
            "%s, %s" % (kind, mood),
            [found["seen"][way.name][what]["before_loss"] for way in ways.WAYS],
        )
        for kind, found in result.items()
        for mood, what in (("alone", "udp_quiet"), ("with other flows", "udp_lively"))
    ]
    return _bars("UDP flows to one place before the first loss, of 1024 ports", series, 1024, 1014)


def _speed(result):
    found = result["one set of 1024"]["cost"]
    series = [
        (name, [ratio(found, way.name, what) for way in ways.WAYS])
        for name, what in (
            ("packets of one flow", "packet"),
            ("new flows, busy", "busy"),
            ("new flows, scattered", "scattered"),
        )
    ]
    return _bars("Rates, as part of unrestricted masquerade's; one set of 1024", series, 1.2, GOAL)


def _bars(title, series, most, goal):
    """An SVG of bars: a group for each way, a bar in it for each (name, values) of the series."""
    colours = (*COLOURS, "#8e44ad")
    group = _BAR * len(series) + 12
    scale = (_WIDTH - _LEFT - 60) / most
    out = [_TEXT % (10, 20, 15, "start", escape(title))]
    top = 40 + 18 * len(series)
    for number, (name, _) in enumerate(series):
        y = 34 + 18 * number
        out += [_RECT % (_LEFT, y, 24, 10, colours[number])]
        out += [_TEXT % (_LEFT + 30, y + 9, 11, "start", escape(name))]
    for at, way in enumerate(ways.WAYS):
        y = top + at * group
        middle = y + group // 2 - 2
        out.append(_TEXT % (_LEFT - 8, middle, 12, "end", escape(way.name.replace("`", ""))))
        for number, (_, values) in enumerate(series):
            value = values[at]
            shown = "%d" % value if most > 10 else "%.2f" % value
            bar = y + number * _BAR
            out.append(_RECT % (_LEFT, bar, min(value, most) * scale, _BAR - 1, colours[number]))
            x = _LEFT + min(value, most) * scale + 4
            out.append(_TEXT % (x, bar + _BAR - 2, 10, "start", shown))
    bottom = top + len(ways.WAYS) * group
    line = '<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#c0392b" stroke-dasharray="4 3"/>'
    x = _LEFT + goal * scale
    out.append(line % (x, top - 4, x, bottom - 8))
    shown = "%d" % goal if most > 10 else "%.2f" % goal
    out.append(_TEXT % (x, bottom + 6, 11, "middle", "wanted: " + shown))
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">'
    ground = '<rect width="%d" height="%d" fill="#fff"/>' % (_WIDTH, bottom + 16)
    return "\n".join([head % (_WIDTH, bottom + 16), ground, *out, "</svg>\n"])
