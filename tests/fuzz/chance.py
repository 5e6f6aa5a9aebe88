"""Decisions read from octets: what a coverage-guided fuzzer changes is then what happens.

Offers the part of random.Random that the fuzzers use, so that one generator serves both a seed and
a fuzzer's input. When the octets are used up every decision is the first one, and spent is True.
"""


class Octets:
    """Decisions from an input; the same input gives the same decisions, on every machine."""

    def __init__(self, data):
        """data: bytes of any length."""
        self._data = data
        self._at = 0

    @property
    def spent(self):
        """True when the input is used up."""
        return self._at >= len(self._data)

    def randbytes(self, count):
        """count octets, zeros behind the end of the input."""
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken.ljust(count, b"\0")

    def randrange(self, low, high=None):
        """An integer from low to high - 1, or from 0 to low - 1; as few octets as it needs."""
        if high is None:
            low, high = 0, low
        width = high - low
        octets = (max(width - 1, 1).bit_length() + 7) // 8
        return low + int.from_bytes(self.randbytes(octets), "big") % width

    def random(self):
        """A number in [0, 1), in steps of 1/256."""
        return self.randbytes(1)[0] / 256

    def choice(self, items):
        """One of the items."""
        return items[self.randrange(len(items))]
