"""checks_bus.py, on both runtimes."""

import subprocess
import sys

import pytest

from tests.support import micropython
from tests.unit.pyubus import checks_bus

RUN = str(micropython.ROOT / "tests/unit/pyubus/run_checks.py")
TESTS = [name for name in dir(checks_bus) if name.startswith("test_")]


@pytest.mark.parametrize("runtime", ["cpython", "micropython", "bytecode"])
def test_the_bus_in_virtual_time(runtime, tmp_path):
    root = micropython.ROOT
    command = [sys.executable]
    if runtime != "cpython":
        command = [micropython.interpreter(), "-X", "heapsize=32M"]
    if runtime == "bytecode":
        root = tmp_path
        micropython.compile_tree(["cpe_agent", "tests/unit/pyubus/checks_bus.py"], root)
        assert not list(root.rglob("*.py"))
    done = subprocess.run([*command, RUN, str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("passed")]
    assert sorted(passed) == sorted(TESTS)
