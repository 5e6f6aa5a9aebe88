"""contract.py, on both runtimes, against the genuine ubusd where there is one, and the stand-in."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from cpe_agent import pyubus
from cpe_agent.pyubus.blocking import Ubus
from tests.support import micropython
from tests.unit.pyubus import contract, standin
from tests.unit.pyubus.servers import ROOT, Stranger

RUN = str(micropython.ROOT / "tests/unit/pyubus/run_contract.py")
DENIED = "test_who_may_do_nothing_is_told_so"
TESTS = [name for name in dir(contract) if name.startswith("test_") and name != DENIED]
NOBODY = 65534


def interpreter(runtime):
    return sys.executable if runtime == "cpython" else micropython.interpreter()


def obey(server, line):
    """Do what a test of the contract asks for; its answer."""
    command, *words = line.split()
    if command in ("stop", "restart"):
        server.stop()
    if command in ("start", "restart"):
        server.start()
    if command == "whoami":
        return server.user()
    if command == "pass-fd":
        return pass_fd(server, *[word.encode() for word in words])
    if command == "latin1":
        return say_latin1(server, *[word.encode() for word in words])
    return "done"


def pass_fd(server, path, method):
    stranger = Stranger(server.path)
    with open("/dev/null") as file:
        status, _ = stranger.call(path, method, fds=[file.fileno()])
    stranger.close()
    return str(status)


def say_latin1(server, path, method, name):
    stranger = Stranger(server.path)
    data = standin.named(standin.T_STRING, name, "café".encode("latin-1") + b"\0")
    status, answer = stranger.call(path, method, data)
    stranger.close()
    values = [payload for _, _, payload in standin.fields(answer)]
    return "%d %s" % (status, values[0].hex())


def run(runtime, server, name, root=str(micropython.ROOT), **options):
    command = [interpreter(runtime), RUN, root, server.path, name]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        env=dict(os.environ, PYTHONUNBUFFERED="1"),
        **options,
    )
    output = []
    with process:
        for line in process.stdout:
            output.append(line)
            if line.startswith("@"):
                process.stdin.write(obey(server, line[1:]) + "\n")
                process.stdin.flush()
    assert process.returncode == 0 and output[-1] == "passed\n", "".join(output)


@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
@pytest.mark.parametrize("name", TESTS)
def test_contract(name, runtime, server):
    run(runtime, server, name)


@pytest.mark.skipif(not ROOT, reason="only root can be somebody else")
@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
def test_contract_with_a_user_who_may_do_nothing(runtime, server):
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        micropython.copy_sources(["cpe_agent/pyubus", "cpe_agent/__init__.py"], folder)
        micropython.copy_sources(["tests/unit/pyubus/contract.py"], folder)
        shutil.copyfile(RUN, folder / "run_contract.py")
        folder.chmod(0o755)
        for parent in pathlib.Path(server.path).parents[:3]:
            parent.chmod(0o755)
        with Ubus(server.path) as owner:
            node = owner.bus.add_object("test.root", contract.ECHO)
            assert owner.wait(contract.PATIENCE, lambda: node.status == pyubus.OK)
            run(runtime, server, DENIED, str(folder), user=NOBODY, group=NOBODY, extra_groups=[])
    finally:
        shutil.rmtree(folder)
