"""The shell's fixtures, for an agent on the runtime that routers have."""

import pytest

from tests.support import micropython
from tests.unit.shell.conftest import link, make_agent, make_peer

__all__ = ["link", "make_agent", "make_peer"]


@pytest.fixture
def runtime():
    """Path of an interpreter."""
    return micropython.interpreter()
