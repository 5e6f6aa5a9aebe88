"""Runs one test of contract.py, on either runtime: `run_contract.py ROOT SOCKET TEST`."""

import sys

sys.path.insert(0, sys.argv[1])

from tests.unit.pyubus import contract

getattr(contract, sys.argv[3])(contract.World(sys.argv[2]))
print("passed")
