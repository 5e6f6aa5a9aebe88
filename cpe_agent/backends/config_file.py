"""Files of /etc/config that others own, and that we look at now and then."""

import os

from cpe_agent import uci


class ConfigFile:
    """A file of UCI that is only read when it has changed."""

    def __init__(self, path):
        """path: of the file."""
        self._path = path
        self._seen = self._sections = None

    def read(self):
        """(list of uci.Section, None), or (None, what is wrong)."""
        try:
            status = os.stat(self._path)
            seen = status[1], status[6], status[8]  # the file, its size and its time
            if seen != self._seen:
                with open(self._path) as file:
                    self._sections = uci.parse(file.read())
                self._seen = seen
        except (OSError, ValueError) as error:
            self._seen = None
            return None, "cannot read %s: %s" % (self._path, error)
        return self._sections, None
