"""The report's pictures as inline SVG. Pure: values in, text out; colours are CSS classes."""

from html import escape

WIDTH = 1060


def tag(name, content="", **attributes):
    """One element; attribute names with _ instead of -, and class_ for class."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{pairs}>{content}</{name}>"


def svg(width, height, label, parts, class_=None):
    return tag(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=label,
        class_=class_,
    )


def text(x, y, words, class_="", anchor=None):
    return tag(
        "text",
        escape(str(words)),
        x=f"{x:g}",
        y=f"{y:g}",
        class_=class_ or None,
        text_anchor=anchor,
    )


def rect(x, y, width, height, class_, title="", rx=None):
    content = tag("title", escape(title)) if title else ""
    return tag(
        "rect",
        content,
        x=f"{x:.2f}",
        y=f"{y:.2f}",
        width=f"{max(width, 0):.2f}",
        height=f"{height:.2f}",
        class_=class_,
        rx=rx,
    )


def line(x1, y1, x2, y2, class_):
    return tag(
        "line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", class_=class_
    )


# ---------------------------------------------------------------------------- topology


def _box(x, width, title, lines, class_="box"):
    """A box of the topology, its title and small lines centred."""
    middle = x + width / 2
    parts = [
        rect(x, 40, width, 104, class_, rx=8),
        text(middle, 64, title, "strong", "middle"),
    ]
    parts += [
        text(middle, 86 + 19 * row, words, "mono", "middle") for row, words in enumerate(lines)
    ]
    return "".join(parts)


def topology(addresses, set_words, neighbours):
    """Who is joined to whom. addresses: of lan, router_lan, router, lwaftr, internet.

    set_words: the port set in two words, address and ports. neighbours: how many.
    """
    pipe = rect(486, 80, 178, 24, "pipe", rx=12)
    parts = [
        line(150, 92, 226, 92, "wire"),
        line(850, 92, 900, 92, "wire"),
        pipe,
        _box(10, 140, "LAN host", [addresses["lan"], "TCP, UDP, ping"]),
        _box(
            226,
            260,
            "Router with cpe-agent",
            [f"LAN {addresses['router_lan']}", f"WAN {addresses['router']}", f"NAT {set_words}"],
            "box own-line",
        ),
        _box(664, 186, "lwAFTR, PCP server", [addresses["lwaftr"], "binding table"]),
        _box(900, 150, "IPv4 Internet", [addresses["internet"], "HTTP, echo"]),
        text(575, 72, "IPv4 in IPv6", "small", "middle"),
        text(575, 96, "softwire", "small strong", "middle"),
        tag("path", d="M356 144 V176 H757 V144", class_="pcp"),
        text(556, 171, "PCP: MAP + PORT_SET, UDP 5351", "small own-text", "middle"),
        text(190, 84, "home", "small", "middle"),
        line(757, 40, 757, 22, "wire faint"),
        text(
            757, 16, f"{neighbours} neighbours, same IPv4 address, other ports", "small", "middle"
        ),
    ]
    return svg(WIDTH, 184, "Topology of the lab", parts)


# ---------------------------------------------------------------------------- timeline

LEFT, RIGHT, ROW = 330, 20, 24


def timeline(record, total):
    """Steps as bars over time, with PCP messages, traffic and events below. total: seconds."""
    steps = record["steps"]
    scale = (WIDTH - LEFT - RIGHT) / total

    def x(at):
        return LEFT + at * scale

    top = 26
    bottom = top + ROW * len(steps)
    parts = [_ticks(x, total, top, bottom + 142)]
    for row, step in enumerate(steps):
        parts.append(_step(x, top + row * ROW, row + 1, step, total))
    parts.append(_pcp_lane(x, bottom + 36, record))
    parts.append(_traffic_lane(x, bottom + 104, record["per_second"], scale))
    parts += [_event(x, top, bottom + 142, event) for event in record["events"]]
    return svg(WIDTH, bottom + 162, "Timeline of the story", parts)


def _ticks(x, total, top, bottom):
    spacing = next(step for step in (5, 10, 20, 60, 300) if total / step <= 14 or step == 300)
    parts = []
    for second in range(0, int(total) + 1, spacing):
        parts.append(line(x(second), top, x(second), bottom, "tick"))
        parts.append(text(x(second), bottom + 15, f"{second} s", "small", "middle"))
    return "".join(parts)


def _step(x, y, number, step, total):
    title = f"{number}. {step['title']}: {step['seconds']:.1f} s"
    left, right = x(step["at"]), x(step["at"] + step["seconds"])
    seconds = f"{step['seconds']:.1f} s"
    late = step["at"] + step["seconds"] > 0.93 * total
    place = (left - 5, "end") if late else (right + 5, None)
    return "".join(
        [
            text(LEFT - 12, y + 15, f"{number}  {step['title']}", "label", "end"),
            rect(left, y + 4, max(2, right - left), ROW - 9, "bar", title, rx=3),
            text(place[0], y + 15, seconds, "small", place[1]),
        ]
    )


def _event(x, top, bottom, event):
    if "power" not in event["text"] and "forgets" not in event["text"]:
        return ""
    at = x(event["at"])
    # The two may be close to each other: one word grows to the left, the other to the right.
    first = "power" in event["text"]
    label = text(
        at + (-4 if first else 4),
        top - 8,
        event["text"],
        "small bad-text",
        "end" if first else None,
    )
    return line(at, top - 3, at, bottom, "event") + label


def _pcp_lane(x, y, record):
    """Triangles: up to the lwAFTR, down from it. Neighbours are faint, announcements hollow."""
    router = record["result"]["router"]
    parts = [
        text(LEFT - 12, y + 4, "PCP to and from the router  ▲▼   announcements  ◆", "label", "end"),
        line(LEFT, y, WIDTH - RIGHT, y, "tick"),
    ]
    for message in record["messages"]:
        at, kind = x(message["at"]), message.get("opcode", "")
        title = tag("title", escape(f"{message['at']:.2f} s {kind}: {message['meaning']}"))
        if kind == "ANNOUNCE":
            shape = f"M{at:.1f} {y - 5} l4 5 l-4 5 l-4 -5 z"
            parts.append(tag("path", title, d=shape, class_="announce"))
        elif message["peer"] == router:
            up = message["direction"] == "in"
            shape = f"M{at:.1f} {y - 15 if up else y + 15} l5 {11 if up else -11} h-10 z"
            parts.append(tag("path", title, d=shape, class_="message"))
    return "".join(parts)


def _traffic_lane(x, y, per_second, scale):
    """Packets a second: up sent by the router, down received; bars grow with the square root."""
    most = max([1, *(max(sent, received) for _, sent, received in per_second)])
    parts = [
        text(LEFT - 12, y, "packets in the softwire, each second:", "label", "end"),
        text(LEFT - 12, y + 15, "sent ▲  received ▼ (square root)", "label faint-text", "end"),
        line(LEFT, y, WIDTH - RIGHT, y, "tick"),
    ]
    width = max(1.5, scale - 1)
    for second, sent, received in per_second:
        high, low = (30 * (count / most) ** 0.5 for count in (sent, received))
        title = f"{second:.0f} s: {sent} sent, {received} received"
        parts.append(rect(x(second), y - high, width, high, "sent", title))
        parts.append(rect(x(second), y, width, low, "received", title))
    return "".join(parts)


# ---------------------------------------------------------------------------- ports

PORTS = 65536
PER_ROW = 8192
ROW_HEIGHT = 30
MAP_WIDTH, MAP_LEFT = 520, 44


def _pieces(first, last, per_row):
    """A range of numbers as (row, first column, columns) of a grid."""
    while first <= last:
        row = first // per_row
        end = min(last, (row + 1) * per_row - 1)
        yield row, first % per_row, end - first + 1
        first = end + 1


def _range(first, last, class_, title):
    scale = (MAP_WIDTH - MAP_LEFT) / PER_ROW
    return "".join(
        rect(
            MAP_LEFT + column * scale,
            row * ROW_HEIGHT + 2,
            columns * scale - 1,
            ROW_HEIGHT - 4,
            class_,
            title,
        )
        for row, column, columns in _pieces(first, last, PER_ROW)
    )


def port_space(own, neighbours, size):
    """All ports of the shared address: who has which. own and neighbours: first_port, size."""
    parts = [
        text(MAP_LEFT - 6, row * ROW_HEIGHT + 19, row * PER_ROW, "small", "end")
        for row in range(PORTS // PER_ROW)
    ]
    for first in range(1024, PORTS, size):
        parts.append(_range(first, min(first + size, PORTS) - 1, "free", f"{first} and up: free"))
    parts.append(_range(0, 1023, "system", "0-1023: system ports, never assigned"))
    parts.append(_never(5350))
    for index, one in enumerate(neighbours, 1):
        last = one["first_port"] + one["size"] - 1
        title = f"{one['first_port']}-{last}: neighbour {one['client']}"
        parts.append(_range(one["first_port"], last, "neighbour", title))
        parts.append(_label(one, f"N{index}", "on-neighbour"))
    last = own["first_port"] + own["size"] - 1
    parts.append(_range(own["first_port"], last, "own", f"{own['first_port']}-{last}: our router"))
    parts.append(_label(own, "ours", "on-own"))
    height = PORTS // PER_ROW * ROW_HEIGHT
    return svg(MAP_WIDTH, height, "All ports of the shared address", parts)


def _never(first):
    """PCP's own two ports, which no set may contain; drawn wider than they are, to be seen."""
    scale = (MAP_WIDTH - MAP_LEFT) / PER_ROW
    [(row, column, _)] = _pieces(first, first + 1, PER_ROW)
    title = f"{first}-{first + 1}: PCP's own ports, never assigned"
    return rect(
        MAP_LEFT + column * scale - 1, row * ROW_HEIGHT + 2, 3, ROW_HEIGHT - 4, "never", title
    )


def _label(one, words, class_):
    """A word in the middle of a set's first piece, if there is room for it."""
    row, column, columns = next(
        _pieces(one["first_port"], one["first_port"] + one["size"] - 1, PER_ROW)
    )
    scale = (MAP_WIDTH - MAP_LEFT) / PER_ROW
    if columns * scale < 30:
        return ""
    middle = MAP_LEFT + (column + columns / 2) * scale
    return text(middle, row * ROW_HEIGHT + 19, words, f"small {class_}", "middle")


CELL_COLUMNS = 64


def _used_by_port(used):
    """{port: [protocol, ...]} out of {protocol: [[first, last], ...]}."""
    found = {}
    for protocol in sorted(used):
        for first, last in used[protocol]:
            for port in range(first, last + 1):
                found.setdefault(port, []).append(protocol)
    return found


def port_set(own, used):
    """Each port of the set as a cell, coloured by the protocols that used it."""
    columns = max(CELL_COLUMNS, own["size"] // 32)
    cell = (MAP_WIDTH - MAP_LEFT) / columns
    rows = -(-own["size"] // columns)
    parts = []
    for row in range(rows):
        count = min(columns, own["size"] - row * columns)
        y = row * cell * 2
        if row % 2 == 0:
            label = own["first_port"] + row * columns
            parts.append(text(MAP_LEFT - 6, y + cell * 1.5, label, "small", "end"))
        parts.append(rect(MAP_LEFT, y + 0.5, count * cell - 1, cell * 2 - 1.5, "unused"))
    for port, protocols in _used_by_port(used).items():
        at = port - own["first_port"]
        if 0 <= at < own["size"]:
            parts.append(_cell(at, columns, cell, port, protocols))
    return svg(MAP_WIDTH, rows * cell * 2, "The ports of the set and their use", parts)


def _cell(at, columns, cell, port, protocols):
    x, y = MAP_LEFT + at % columns * cell, at // columns * cell * 2
    title = f"{port}: {', '.join(protocols)}"
    height = (cell * 2 - 1.5) / len(protocols)
    return "".join(
        rect(x, y + 0.5 + index * height, cell - 1, height, protocol, title)
        for index, protocol in enumerate(protocols)
    )
