"""Child processes, for those backends that cannot do without."""

import os


def run(command, path):
    """(exit code, output with errors) of one command. path: a file in RAM for the output."""
    status = os.system("%s >%s 2>&1" % (command, path))
    # Some shells replace themselves by the command, and then a signal is not an exit code.
    code = status >> 8 or status & 0xFF
    try:
        with open(path) as file:
            return code, file.read()
    except OSError as error:
        return code or 1, "cannot read %s: %s" % (path, error)
