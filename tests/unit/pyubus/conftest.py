"""A ubusd for a test."""

import pytest

from tests.unit.pyubus.servers import GENUINE, Server


@pytest.fixture(params=["standin", GENUINE])
def server(request, tmp_path):
    one = Server(request.param, tmp_path)
    one.start()
    yield one
    one.stop()
