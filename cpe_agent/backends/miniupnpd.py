"""Keeps OpenWrt's miniupnpd, where there is one, to the port sets.

What lives here: when its rules are written, and when it is started anew. What they say is
upnp.py's.
"""

import os

from cpe_agent import store, upnp
from cpe_agent.backends.config_file import ConfigFile

_CONFIG, _STATE, _INIT = "/etc/config/upnpd", "/var/state/upnpd", "/etc/init.d/miniupnpd"
_LARGEST = 65536  # octets of the state file


class Miniupnpd:
    """The service, as far as it is ours."""

    def __init__(self, interface, config=_CONFIG, state=_STATE, init=_INIT):
        """interface: name of the softwire's. config, state, init: paths of its config, of what is
        read over that, and of its init script."""
        self._interface = interface
        self._config = ConfigFile(config)
        self._path = state
        self._init = init

    def follow(self, plan, reloaded):
        """Deny what is not of a plan.Plan's sets; for None, nothing. Raises store.StoreError.

        reloaded: the firewall was loaded anew, which has emptied miniupnpd's chains: it fills them
        when it starts.
        """
        serves = upnp.is_on(self._sections(), self._interface)
        ranges = upnp.denied(plan.port_sets, plan.reserved) if plan and serves else []
        before = self._read()
        text = upnp.state(before, ranges)
        if text != before:
            self._write(text)
        if text != before or (serves and reloaded):
            self._restart()

    def problems(self):
        """What keeps it from obeying, as lines for people."""
        sections = self._sections()
        return upnp.problems(sections) if upnp.is_on(sections, self._interface) else []

    def _sections(self):
        return self._config.read()[0] or []

    def _read(self):
        try:
            with open(self._path) as file:
                return file.read()
        except (OSError, ValueError):
            return ""

    def _write(self, text):
        store.make_directory(self._path.rpartition("/")[0])
        file = store.File(self._path, _LARGEST)
        file.read()
        file.write(text)

    def _restart(self):
        """Not waited for: it may take seconds, and nothing of ours depends on it."""
        os.system("{ %s running && %s restart; } >/dev/null 2>&1 &" % (self._init, self._init))
