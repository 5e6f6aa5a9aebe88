"""Both runtimes, for tests of the shell that run whole programs."""

import sys

import pytest

from tests.support import micropython
from tests.unit.shell import rig


@pytest.fixture(params=["cpython", "micropython"])
def runtime(request):
    """Path of an interpreter."""
    return sys.executable if request.param == "cpython" else micropython.interpreter()


@pytest.fixture(scope="module")
def link():
    """A link between operator and router, for the tests of a module."""
    with rig.Link() as made:
        yield made


@pytest.fixture
def make_peer(link):
    """make_peer(script, address): a PCP server on the link."""
    made = []

    def make(script=None, address=rig.SERVER):
        made.append(rig.Peer(link, script, address))
        return made[-1]

    yield make
    for peer in made:
        peer.stop()


@pytest.fixture
def make_agent(link, runtime, tmp_path):
    """make_agent(**options): an agent that is not started yet. It must be alive at the end."""
    made = []

    def make(name="agent", **options):
        (tmp_path / name).mkdir()
        made.append(rig.Agent(link.cpe, runtime, tmp_path / name, **options))
        return made[-1]

    yield make
    ended = [agent.log() for agent in made if agent.process and not agent.end()]
    assert ended == [], "an agent died"
    assert "Traceback" not in "".join(agent.log() for agent in made)
