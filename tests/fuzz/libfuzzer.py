"""One target under libFuzzer, for cover.py, which starts this and reads what it prints.

python -m tests.fuzz.libfuzzer TARGET [libFuzzer's own arguments]
"""

import shlex
import sys

import atheris

from tests.fuzz import targets


def main():
    sys.path.insert(0, str(targets.ROOT / "qemu-lab"))
    with atheris.instrument_imports(include=["cpe_agent", "lwaftr"]):
        name = sys.argv[1]
        run = targets.load(name)
    # libFuzzer starts itself again for a merge, by its first argument, in a shell.
    again = "%s -m tests.fuzz.libfuzzer %s" % (shlex.quote(sys.executable), name)
    atheris.Setup([again, *sys.argv[2:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
