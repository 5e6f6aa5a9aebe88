"""history.History as text that fits a terminal of 80 columns. Pure."""

from cpe_agent import history

_WIDTH = 72  # columns; each is as many steps as fit a day into that
_HEIGHT = 10  # lines
_TOPS = (10, 20, 50, 100)  # percent; the highest line of a plot is one of these
_TIMES = "      -24 h%35s%32s" % ("-12 h", "now")
_GAP, _NONE, _BAR = " ", ".", "#"  # not counted; counted, and none needed; needed


def lines(found):
    """found: as History.read gives it."""
    steps = [one for one in found["full"] if one is not None]
    if not steps:
        return ["nothing has been counted yet: that begins ten seconds after a port set has come"]
    columns = _columns(found["full"])
    top = min([one for one in _TOPS if one >= max(steps)])
    out = ["percent of the ports that were needed; each column is %s" % _length(found)]
    for line in range(_HEIGHT, 0, -1):
        cells = "".join([_cell(value, line, top) for value in columns])
        out.append(("%4d |%s" % (top * line // _HEIGHT, cells)).rstrip())
    out.append("     +" + "-" * _WIDTH)
    out.append(_TIMES)
    return out + _summary(found)


def _columns(values):
    """The highest of the steps of each column, or None."""
    per = history.STEPS // _WIDTH
    day = [None] * (history.STEPS - len(values)) + values
    parts = [day[at : at + per] for at in range(0, history.STEPS, per)]
    return [max([one for one in part if one is not None], default=None) for part in parts]


def _cell(value, line, top):
    if value is None:
        return _GAP
    if value == 0 and line == 1:
        return _NONE
    return _BAR if value * _HEIGHT > top * (line - 1) else " "


def _length(found):
    return "%d min" % (found["step"] * history.STEPS // _WIDTH // 60)


def _summary(found):
    """When it was worst, and how much that was."""
    full = found["full"]
    worst = max([one for one in full if one is not None])
    at = len(full) - 1 - full[::-1].index(worst)
    out = ["most: %d %% of %d ports, %s" % (worst, found["ports"][at], _ago(found, at))]
    for name in ("tcp", "udp", "icmp"):
        most = max([one for one in found[name] if one is not None])
        out.append("  %-4s at most %d ports in use" % (name, most))
    return out


def _ago(found, at):
    seconds = (len(found["full"]) - 1 - at) * found["step"]
    if seconds == 0:
        return "just now"
    return "%d h %02d min ago" % (seconds // 3600, seconds % 3600 // 60)
