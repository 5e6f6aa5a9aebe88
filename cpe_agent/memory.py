"""What the agent remembers of its mappings, in one file: for each, and for each server that it was
on, the nonce, and the set held last.

One nonce for each server, so that going back to a server finds the nonce that it knows us by
(RFC 6887 11.3). The file is small and stays so: servers that never gave a set make room first.
"""

from cpe_agent import log, store
from cpe_agent.pcp import servers

_SERVERS = servers.MAX_SERVERS  # remembered for one mapping
_LARGEST = 4096  # octets


class Memory:
    """The states of the mappings by name, on flash or in RAM as the path has it."""

    def __init__(self, path):
        self.path = path
        self.live = ()  # names that are wanted now
        self._used = {}  # the server of each of them: name -> 16 octets
        self._file = store.File(path, _LARGEST)
        self._entries = None  # (name, store.State), the newest last; None until they are read

    @property
    def writes(self):
        """How often the medium was written to."""
        return self._file.writes

    def recall(self, name, server):
        """The store.State of a name on a server (16 octets), or None."""
        return _last([state for state in self._states(name) if state.server == server])

    def newest_set(self, name):
        """The newest store.State of a name that has a set, or None."""
        return _last([state for state in self._states(name) if state.port_set])

    def servers(self, name):
        """Servers (16 octets) that a name was on, the newest last."""
        return [state.server for state in self._states(name)]

    def _states(self, name):
        return [state for other, state in self._read() if other == name]

    def keep(self, name, state):
        """Remember; written only if something is new. Raises store.StoreError."""
        entries = self._read()
        kept = name, state
        self._used[name] = state.server
        if kept not in entries:
            same = name, state.server
            entries = [one for one in entries if (one[0], one[1].server) != same] + [kept]
        others = [one for one in entries if one[0] == name and one != kept]
        if len(others) >= _SERVERS:
            entries.remove(min(others, key=self._worth))
        while len(store.encode(entries)) > _LARGEST and len(entries) > 1:
            entries.remove(min([one for one in entries if one != kept], key=self._worth))
        self._entries = entries
        self._file.write(store.encode(entries))

    def forget(self, name, server):
        """Leave no trace of a name on a server (16 octets). Raises store.StoreError."""
        self._entries = [
            entry for entry in self._read() if (entry[0], entry[1].server) != (name, server)
        ]
        if self._entries:
            self._file.write(store.encode(self._entries))
        else:
            self._file.remove()

    def _worth(self, entry):
        """What is in use is never done without; what has no set goes before what has one, then what
        nobody wants any more, then the oldest."""
        name, state = entry
        wanted = name in self.live
        in_use = wanted and self._used.get(name) == state.server
        return in_use, state.port_set is not None, wanted

    def _read(self):
        if self._entries is None:
            text = self._file.read()
            try:
                self._entries = [] if text is None else store.decode(text)
            except store.Damaged as error:
                self._entries = []
                aside = self._file.set_aside()
                log.warning(
                    "%s cannot be trusted: %s; it is kept as %s, and a new start is made"
                    % (self.path, error, aside)
                )
        return self._entries


def _last(states):
    return states[-1] if states else None
