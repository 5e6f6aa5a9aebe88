"""Runs the core's tests where pytest cannot: `micropython tests/unit/core/run_micropython.py ROOT`.

ROOT holds cpe_agent and tests, as source or as .mpy. Prints a line per failure and a closing count.
"""

import os
import sys


def modules(folder):
    """Names of the test modules in a folder, source or bytecode."""
    names = [entry[0] for entry in os.ilistdir(folder)]
    names = [name.rsplit(".", 1)[0] for name in names if name.endswith((".py", ".mpy"))]
    return sorted([name for name in names if name.startswith("test_")])


def main(root):
    sys.path.insert(0, root)
    passed = failed = 0
    for name in modules(root + "/tests/unit/core"):
        path = "tests.unit.core." + name
        try:
            __import__(path)
            module = sys.modules[path]
        except Exception as error:
            failed += 1
            print("FAILED %s: cannot be imported" % name)
            sys.print_exception(error)
            continue
        for test in sorted([test for test in dir(module) if test.startswith("test_")]):
            try:
                getattr(module, test)()
                passed += 1
            except Exception as error:
                failed += 1
                print("FAILED %s.%s" % (name, test))
                sys.print_exception(error)
    print("%s: %d passed, %d failed" % (sys.implementation.name, passed, failed))
    return 1 if failed else 0


sys.exit(main(sys.argv[1]))
