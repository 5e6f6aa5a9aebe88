"""What all scenarios share."""

import pytest

from tests.e2e.scenarios.home import Home


@pytest.fixture(scope="module")
def home(lab):
    """A home in the module's lab; each test says by home.begin() what it starts from."""
    return Home(lab)
