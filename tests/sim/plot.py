"""The fleet's requests a second over time, as an SVG."""

import math
from xml.sax.saxutils import escape

WIDTH, PANEL, LEFT, TOP = 760, 250, 60, 46
SECONDS = 400  # on the x axis
COLOURS = ("#c0392b", "#e67e22", "#2471a3", "#5dade2", "#229954", "#8e44ad")
_TEXT = '<text x="%d" y="%d" font-size="%d" text-anchor="%s" fill="%s">%s</text>'
_LINE = '<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="%s"/>'


def _text(x, y, text, size=11, anchor="start", colour="#333"):
    return _TEXT % (x, y, size, anchor, colour, escape(text))


def _line(x1, y1, x2, y2, colour="#ddd", width=1):
    return _LINE % (x1, y1, x2, y2, colour, width)


class _Panel:
    """One server's rate: a curve per way of learning. The y axis is logarithmic."""

    def __init__(self, top, results, colours, decades):
        self.top = top
        self.results = results
        self.colours = colours
        self.decades = decades

    def _x(self, second):
        return LEFT + (WIDTH - LEFT - 20) * second / SECONDS

    def _y(self, rate):
        height = PANEL - 70
        exponent = math.log10(max(rate, 1))
        return self.top + height - height * exponent / self.decades

    def draw(self):
        """The panel's elements."""
        rate = self.results[0].rate
        title = "a server that serves all" if rate is None else "a server of %d requests/s" % rate
        out = [_text(LEFT, self.top - 8, "Requests per second, " + title, 13)]
        for decade in range(self.decades + 1):
            y = self._y(10**decade)
            out += [
                _line(LEFT, y, WIDTH - 20, y),
                _text(LEFT - 6, y + 4, str(10**decade), 11, "end"),
            ]
        for second in range(0, SECONDS + 1, 50):
            x = self._x(second)
            out += [
                _line(x, self._y(1), x, self._y(1) + 4, "#999"),
                _text(x, self._y(1) + 16, "%d s" % second, 11, "middle"),
            ]
        if rate is not None:
            out.append(_line(LEFT, self._y(rate), WIDTH - 20, self._y(rate), "#555", 2))
        return out + list(map(self._curve, self.results, self.colours))

    def _curve(self, result, colour):
        points = " ".join(
            "%.1f,%.1f" % (self._x(second), self._y(result.sent[second]))
            for second in range(SECONDS)
        )
        shape = '<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>'
        return shape % (points, colour)


def svg(results, count):
    """An SVG of fleet.Result entries of one count of routers: a panel for each server's rate."""
    rates = list(dict.fromkeys(result.rate for result in results))
    names = list(dict.fromkeys(result.way.name for result in results))
    peak = max(max(result.sent.values()) for result in results)
    decades = math.ceil(math.log10(peak))
    out = [_text(LEFT, 20, "%d routers after a restart of their lwAFTR" % count, 15)]
    for number, rate in enumerate(rates):
        mine = [result for result in results if result.rate == rate]
        colours = [COLOURS[names.index(result.way.name)] for result in mine]
        out += _Panel(TOP + 16 + number * PANEL, mine, colours, decades).draw()
    bottom = TOP + len(rates) * PANEL
    for number, name in enumerate(names):
        x, y = LEFT + number % 2 * 340, bottom + number // 2 * 18
        colour = COLOURS[number]
        out += [_line(x, y - 4, x + 24, y - 4, colour, 3), _text(x + 30, y, name)]
    height = bottom + (len(names) + 1) // 2 * 18 + 6
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif">'
    ground = '<rect width="%d" height="%d" fill="#fff"/>' % (WIDTH, height)
    return "\n".join([head % (WIDTH, height), ground, *out, "</svg>\n"])
