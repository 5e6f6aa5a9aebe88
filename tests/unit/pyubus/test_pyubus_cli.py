"""Both ways with OpenWrt's own ubus command."""

import json
import os
import subprocess
import threading

import pytest

from cpe_agent import pyubus
from cpe_agent.pyubus import Method
from cpe_agent.pyubus.blocking import Ubus
from tests.unit.pyubus.servers import UBUS

pytestmark = pytest.mark.skipif(not UBUS, reason="no ubus command on PATH, and UBUS names none")
PATIENCE = 30000

TYPES = (
    ("flag", pyubus.BOOL),
    ("number", pyubus.INT32),
    ("name", pyubus.STRING),
    ("list", pyubus.ARRAY),
    ("table", pyubus.TABLE),
)


def command(server, *arguments):
    return [UBUS, "-s", server.path, *arguments]


@pytest.fixture
def ours(server):
    """An object that is served in a thread, and its connection."""
    with Ubus(server.path) as ubus:
        methods = [
            Method("typed", lambda request: request.arguments, TYPES),
            Method("echo", lambda request: request.arguments, (("value", None),)),
        ]
        node = ubus.bus.add_object("test.cli", methods)
        ubus.wait(PATIENCE, lambda: node.id)
        ended = threading.Event()

        def serve():
            while not ended.is_set():
                ubus.wait(20)

        thread = threading.Thread(target=serve)
        thread.start()
        yield ubus
        ended.set()
        thread.join()


def said(server, *arguments):
    done = subprocess.run(command(server, *arguments), capture_output=True, text=True)
    return done.returncode, done.stdout


def test_list_shows_our_signature(ours, server):
    code, text = said(server, "-v", "list", "test.cli")
    assert code == 0
    assert (
        '"typed":{"flag":"Boolean","number":"Integer","name":"String","list":"Array",'
        '"table":"Table"}' in text
    )
    assert '"echo":{"value":"(unknown)"}' in text


@pytest.mark.parametrize(
    "value",
    [
        *[None, True, False, 0, -1, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, 1.5, -2.25, ""],
        *["text", "ä€", [], {}, [1, [2, {"three": [None]}]], {"b": 1, "a": {"c": [True]}}],
    ],
)
def test_call_gets_back_what_it_gave(ours, server, value):
    code, text = said(server, "call", "test.cli", "echo", json.dumps({"value": value}))
    assert code == 0
    assert json.loads(text) == {"value": value}


def test_wrong_arguments_end_as_with_any_object(ours, server):
    for arguments in ('{"flag": 1}', '{"number": "x"}', '{"unknown": 1}'):
        assert said(server, "call", "test.cli", "typed", arguments)[0] == 254
    assert said(server, "call", "test.cli", "none", "{}")[0] == 253
    assert said(server, "call", "no.such", "none", "{}")[0] == 4


@pytest.mark.parametrize(("how", "what"), [("listen", "test.event"), ("subscribe", "test.news")])
def test_the_command_hears_us(server, how, what):
    changes = []
    with Ubus(server.path) as ubus:
        node = ubus.bus.add_object("test.news", [], changes.append)
        ubus.wait(PATIENCE, lambda: node.id)
        process = subprocess.Popen(command(server, how, what), stdout=subprocess.PIPE, text=True)
        try:
            os.set_blocking(process.stdout.fileno(), False)
            line = ""
            while not line:  # it does not say when it listens
                if how == "subscribe":
                    ubus.bus.notify(node, "test.event", {"a": [1, None, "x"]})
                else:
                    ubus.bus.send_event("test.event", {"a": [1, None, "x"]})
                ubus.wait(20)
                line = process.stdout.readline()
            assert json.loads(line) == {"test.event": {"a": [1, None, "x"]}}
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if how == "subscribe":
            assert ubus.wait(PATIENCE, lambda: changes == [True, False])


def test_we_hear_the_command(server):
    heard = []
    with Ubus(server.path) as ubus:
        node = ubus.bus.listen("test.*", lambda event, data: heard.append((event, data)))
        ubus.wait(PATIENCE, lambda: node.id)
        ubus.lookup()
        sent = {"n": 5, "big": 2**40, "list": [1.5, None, "ä"]}
        assert said(server, "send", "test.event", json.dumps(sent))[0] == 0
        assert ubus.wait(PATIENCE, lambda: heard)
    assert heard == [("test.event", sent)]
