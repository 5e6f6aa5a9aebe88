"""Runs checks_bus.py, on either runtime: `run_checks.py ROOT`; names those that passed."""

import sys

sys.path.insert(0, sys.argv[1])

from tests.unit.pyubus import checks_bus

for name in sorted([name for name in dir(checks_bus) if name.startswith("test_")]):
    print("running", name)
    getattr(checks_bus, name)()
    print("passed", name)
