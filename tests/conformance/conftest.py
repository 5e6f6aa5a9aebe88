"""Fixtures of the shell and of the namespaces; agents run on the runtime that routers have."""

import pytest

from tests.netns.conftest import home, shared_home
from tests.support import micropython
from tests.unit.shell.conftest import link, make_agent, make_peer

__all__ = ["home", "link", "make_agent", "make_peer", "shared_home"]


@pytest.fixture
def runtime():
    """Path of an interpreter."""
    return micropython.interpreter()
