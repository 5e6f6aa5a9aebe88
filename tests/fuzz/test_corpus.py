"""Every input that the coverage-guided fuzzer has kept, once more (see docs/fuzzing.md)."""

import os
import subprocess

import pytest

from tests.fuzz import codec, conversation, targets
from tests.support import micropython

MOST_INPUTS = 500  # of all targets: the corpus is kept small enough to be replayed at every run
MOST_OCTETS = 300000


@pytest.mark.parametrize("target", sorted(targets.LENGTHS))
def test_every_kept_input_is_survived(target):
    run = targets.load(target)
    inputs = targets.inputs(target)
    assert len(inputs) > 10
    for path in inputs:
        try:
            run(path.read_bytes())
        except Exception as error:
            raise AssertionError("%s: %r" % (path.name, error)) from error


def test_the_corpus_stays_small():
    sizes = [path.stat().st_size for target in targets.LENGTHS for path in targets.inputs(target)]
    assert len(sizes) < MOST_INPUTS and sum(sizes) < MOST_OCTETS


def test_kept_conversations_come_far():
    """The corpus would be worthless if its inputs ended before anything is granted."""
    reached = set()
    for path in targets.inputs("conversation"):
        conversation.run(path.read_bytes(), reached.add)
    assert reached >= {
        "adopted",
        "repeated",
        "unmatched",
        "version refused",
        "announced a loss",
        "success at releasing",
        "error at held",
        "event gave up",
        "event changed",
        "well in the end",
    }


def test_the_codec_survives_its_inputs_on_micropython():
    program = (
        "import os\n"
        "from tests.fuzz import codec\n"
        "folder = 'tests/fuzz/corpus/codec/'\n"
        "names = os.listdir(folder)\n"
        "for name in names:\n"
        "    with open(folder + name, 'rb') as file:\n"
        "        codec.run(file.read())\n"
        "print(len(names), 'inputs')\n"
    )
    done = subprocess.run(
        [micropython.interpreter(), "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=micropython.ROOT,
        env={**os.environ, "MICROPYPATH": str(micropython.ROOT)},
    )
    assert done.stdout == "%d inputs\n" % len(targets.inputs("codec")), done.stdout + done.stderr


def test_the_codec_target_sees_a_parser_that_raises(monkeypatch):
    """The target itself: anything but the codec's own error comes out of it."""

    def careless(data):
        return data[4000]

    monkeypatch.setattr(codec.wire, "parse_response", careless)
    with pytest.raises(IndexError):
        codec.run(b"\0" + bytes(24))
