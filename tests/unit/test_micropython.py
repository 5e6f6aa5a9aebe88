"""The core's tests once more, on the runtime that routers have: from source and as bytecode."""

import ast
import re
import subprocess

import pytest

from tests.support import micropython

CORE = micropython.ROOT / "tests/unit/core"
PATHS = ("cpe_agent", "tests/unit/core")


def count_tests_in_core():
    """How many test functions pytest collects from the core's test modules."""
    count = 0
    for path in CORE.glob("test_*.py"):
        tree = ast.parse(path.read_text())
        count += sum(
            isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
            for node in tree.body
        )
    return count


@pytest.mark.parametrize("form", ["source", "bytecode"])
def test_the_core_behaves_the_same_on_micropython(form, tmp_path):
    interpreter = micropython.interpreter()
    prepare = {"source": micropython.copy_sources, "bytecode": micropython.compile_tree}[form]
    prepare(PATHS, tmp_path)
    if form == "bytecode":
        assert not list(tmp_path.rglob("*.py"))
    done = subprocess.run(
        [interpreter, "-X", "heapsize=16M", str(CORE / "run_micropython.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    closing = re.search(r"^micropython: (\d+) passed, (\d+) failed$", done.stdout, re.M)
    assert closing, done.stdout + done.stderr
    assert closing.group(2) == "0", done.stdout
    assert done.returncode == 0
    assert int(closing.group(1)) == count_tests_in_core() > 30
    print(done.stdout.strip())


def test_the_whole_agent_compiles_for_micropython(tmp_path):
    micropython.compile_tree(["cpe_agent"], tmp_path)
    assert (tmp_path / "cpe_agent/pcp/client.mpy").exists()


def test_a_failing_test_fails_on_micropython_too(tmp_path):
    """The runner itself: it must not say 'passed' for what did not hold."""
    folder = tmp_path / "tests/unit/core"
    folder.mkdir(parents=True)
    (folder / "test_x.py").write_text(
        "def test_a():\n    assert 1 == 2\n\ndef test_b():\n    pass\n"
    )
    (folder / "test_y.py").write_text("import no_such_module\n")
    done = subprocess.run(
        [micropython.interpreter(), str(CORE / "run_micropython.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "micropython: 1 passed, 2 failed" in done.stdout
    assert "FAILED test_x.test_a" in done.stdout
    assert done.returncode == 1
