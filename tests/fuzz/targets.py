"""The coverage-guided fuzzer's targets, and where their inputs are kept."""

import importlib
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
# Inputs that are kept at most: all of them are replayed at every run of the tests.
MOST = {"codec": 100, "conversation": 250, "texts": 140}
# Longest input worth trying, in octets: a conversation of some eighty events, a whole config.
LENGTHS = {"codec": 200, "conversation": 400, "texts": 400}


def load(name):
    """The function that takes one input of a target."""
    return importlib.import_module("tests.fuzz." + name).run


def inputs(name):
    """Paths of the inputs that are kept for a target."""
    return sorted(path for path in (CORPUS / name).iterdir() if path.is_file())
