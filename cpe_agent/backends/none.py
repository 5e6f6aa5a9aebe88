"""Holds the port set and touches no network: for a look at what a server gives."""


class Nothing:
    """Accepts any plan and does nothing about it."""

    plan = None
    index = None

    def present(self):
        """There is never anything to take down."""
        return False

    def apply(self, _plan):
        """False: nothing changes."""
        return False

    def protocols(self):
        """Nothing is translated."""
        return ()

    def taken(self, _port_sets):
        """No forwards are set up, so nobody has ports of the sets."""
        return ()

    def warnings(self):
        """Nothing is set up, so nothing is set up wrong."""
        return []

    def rules(self):
        """Text for people: there are none."""
        return ""

    def counters(self):
        """There are no guards."""
        return {}

    def complain(self, _code, _text):
        """Nobody else shows what is wrong."""
