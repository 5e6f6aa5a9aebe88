"""Both runtimes, for tests of the shell that run whole programs."""

import sys

import pytest

from tests.support import micropython


@pytest.fixture(params=["cpython", "micropython"])
def runtime(request):
    """Path of an interpreter."""
    return sys.executable if request.param == "cpython" else micropython.interpreter()
