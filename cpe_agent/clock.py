"""Milliseconds since boot: never backwards, and the same for every process (RFC 6887 8.5)."""

import time

_HERTZ = 100  # USER_HZ, the unit of /proc/<pid>/stat on every Linux


class Clock:
    """now() in ms since boot.

    MicroPython's ticks wrap after days on 32 bits, so they are added up from the uptime at the
    start; now() must be called at least once in six days, and the loop never sleeps that long.
    """

    def __init__(self):
        self._ticks = _ticks()
        self._now = _uptime()

    def now(self):
        """ms since boot."""
        if hasattr(time, "ticks_diff"):
            ticks = time.ticks_ms()
            self._now += time.ticks_diff(ticks, self._ticks)
            self._ticks = ticks
            return self._now
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000000


def process_start():
    """When this process started, in ms since boot, to the nearest 10 ms."""
    with open("/proc/self/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return int(fields[19]) * 1000 // _HERTZ


def _ticks():
    return time.ticks_ms() if hasattr(time, "ticks_ms") else None


def _uptime():
    with open("/proc/uptime") as file:
        return int(float(file.read().split()[0]) * 1000)
