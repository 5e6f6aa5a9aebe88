"""Users' scripts in /etc/hotplug.d/cpe-agent: run at every event, one after the other.

Events wait in a file in RAM, which a runner of its own takes; so there are never more than two of
those, one at work and one that waits for it, however long a script hangs.
"""

import os

from cpe_agent import log

_CALL = "/sbin/hotplug-call"
_RUNNER = "/usr/lib/cpe-agent/hotplug"
_MOST = 4096  # octets of events that wait


class Scripts:
    """Has them run."""

    def __init__(self, run_dir, call=_CALL, runner=_RUNNER):
        """run_dir: RAM. call: what runs the scripts. runner: our program that calls that."""
        self._queue = run_dir + "/events"
        self._call = call
        self._runner = runner
        try:
            os.unlink(self._queue)  # nobody may be left to take it
        except OSError:
            pass

    def run(self, kind, values):
        """Run them by and by. values: {name: checked name, address or number}."""
        if _size(self._call) is None:
            return
        words = ["ACTION=" + kind]
        words += ["%s=%s" % (name.upper(), values[name]) for name in sorted(values)]
        waiting = _size(self._queue)
        if waiting is not None and waiting > _MOST:
            log.warning("a script in /etc/hotplug.d/cpe-agent does not end; it is not told more")
            return
        try:
            with open(self._queue, "a") as file:
                file.write(" ".join(words) + "\n")
        except OSError as error:
            log.warning("cannot tell hotplug scripts: %s" % error)
            return
        if waiting is None:
            os.system("%s %s %s &" % (self._runner, self._queue, self._call))


def _size(path):
    """In octets; None if it is not there."""
    try:
        return os.stat(path)[6]
    except OSError:
        return None
