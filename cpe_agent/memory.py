"""What the agent remembers of its mappings, in one file: for each, and for each server that it was
on, the nonce, and the set held last.

One nonce for each server, so that going back to a server finds the nonce that it knows us by
(RFC 6887 11.3). The file is small and stays so: what nobody wants any more makes room first.
"""

from cpe_agent import log, store

_SERVERS = 3  # remembered for one mapping
_LARGEST = 4096  # octets


class Memory:
    """The states of the mappings by name, on flash or in RAM as the path has it."""

    def __init__(self, path):
        self.path = path
        self.live = ()  # names that are wanted now; others are forgotten before them
        self._file = store.File(path, _LARGEST)
        self._entries = None  # (name, store.State), the newest last; None until they are read

    @property
    def writes(self):
        """How often the medium was written to."""
        return self._file.writes

    def recall(self, name, server):
        """The store.State of a name on a server (16 octets), else the newest of that name, else
        None."""
        known = [state for other, state in self._read() if other == name]
        same = [state for state in known if state.server == server]
        return (same or known or [None])[-1]

    def servers(self, name):
        """Servers (16 octets) that a name was on, the newest last."""
        return [state.server for other, state in self._read() if other == name]

    def keep(self, name, state):
        """Remember; written only if something is new. Raises store.StoreError."""
        entries = self._read()
        mine = [entry for entry in entries if entry[0] == name]
        if (name, state) not in mine:
            known = [entry for entry in mine if entry[1].server != state.server]
            late = known[len(known) - _SERVERS + 1 :] if len(known) >= _SERVERS else known
            entries = [entry for entry in entries if entry[0] != name] + late + [(name, state)]
        while len(store.encode(entries)) > _LARGEST and len(entries) > 1:
            entries.remove(self._least(entries))
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

    def _least(self, entries):
        """The entry to do without: the oldest of no wanted name, else of an earlier server."""
        for entry in entries:
            if entry[0] not in self.live:
                return entry
        for index, entry in enumerate(entries):
            if [later for later in entries[index + 1 :] if later[0] == entry[0]]:
                return entry
        return entries[0]

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
