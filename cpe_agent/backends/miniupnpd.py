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
        self._load = None  # of the firewall; see follow()
        self._error = None  # why the state file is not written

    def follow(self, plan, reloaded, load):
        """Deny what is not of a plan.Plan's first set, and tell its address; for None, neither.

        reloaded: we have loaded the firewall anew. load(): gives a text that is another one after
        each load, whoever did it. A load has emptied miniupnpd's chains, and it fills them when it
        starts, from the file of its leases.
        """
        sections = self._sections()
        serves = upnp.is_on(sections, self._interface)
        seen = load() if serves else None
        emptied = serves and (reloaded or self._load not in (None, seen))
        self._load = seen
        before = self._read()
        text = self._state(before, plan if upnp.may_serve(sections, self._interface) else None)
        written = text != before and self._write(text)
        if written or emptied:
            self._restart()

    def problems(self, plan):
        """What keeps it from serving as it should, as lines for people. plan: plan.Plan, or None
        while there is none."""
        sections = self._sections()
        if plan is None or not upnp.is_on(sections, self._interface):
            return []
        found = upnp.problems(sections, plan.address)
        if self._error:
            found.append("miniupnpd may give ports outside of the port sets: " + self._error)
        return found

    def _state(self, before, plan):
        if plan is None:
            return upnp.state(before, ())
        # Additional sets come and go, and hosts do not hear of it when their ports go with them.
        ranges = upnp.denied(plan.port_sets[:1], plan.reserved)
        return upnp.state(before, ranges, plan.address)

    def _sections(self):
        return self._config.read()[0] or []

    def _read(self):
        try:
            with open(self._path) as file:
                return file.read()
        except (OSError, ValueError):
            return ""

    def _write(self, text):
        """True if it is written; without a text nothing is left there."""
        file = store.File(self._path, _LARGEST)
        self._error = None
        if not text:
            file.remove()
            return True
        try:
            store.make_directory(self._path.rpartition("/")[0])
            file.read()
            file.write(text)
        except store.StoreError as error:
            self._error = str(error)
        return self._error is None

    def _restart(self):
        """Not waited for: it may take seconds, and nothing of ours depends on it."""
        os.system("{ %s running && %s restart; } >/dev/null 2>&1 &" % (self._init, self._init))
