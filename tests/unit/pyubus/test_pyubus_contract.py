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
    if runtime == "cpython":
        return [sys.executable]
    return [micropython.interpreter(), "-X", "heapsize=32M"]  # for messages of 1 MiB


def obey(server, line, strangers):
    """Do what a test of the contract asks for; its answer.

    strangers: list for the clients whose calls the test has to answer before it asks for 'answer'.
    """
    command, *words = line.split()
    words = [word.encode() for word in words]
    if command in ("stop", "restart"):
        server.stop()
    if command in ("start", "restart"):
        server.start()
    if command == "whoami":
        return server.user()
    if command in ("pass-fd", "latin1"):
        strangers.append(Stranger(server.path))
    if command == "pass-fd":
        with open("/dev/null") as file:
            strangers[0].call(*words, fds=[file.fileno()])
    if command == "latin1":
        path, method, name = words
        data = standin.named(standin.T_STRING, name, "café".encode("latin-1") + b"\0")
        strangers[0].call(path, method, data)
    if command == "answer":
        return answer(strangers.pop())
    return "done"


def answer(stranger):
    """Status, and the values in hexadecimal, that a stranger's call has got."""
    status, found = stranger.answer()
    stranger.close()
    values = [value.hex() for _, _, value in standin.fields(found.get(standin.A_DATA, b""))]
    return " ".join([str(status), *values])


def run(command, server, name, root=str(micropython.ROOT), **options):
    command = [*command, RUN, root, server.path, name]
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
    strangers = []
    with process:
        for line in process.stdout:
            output.append(line)
            if line.startswith("@"):
                process.stdin.write(obey(server, line[1:], strangers) + "\n")
                process.stdin.flush()
    assert process.returncode == 0 and output[-1] == "passed\n", "".join(output)


@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
@pytest.mark.parametrize("name", TESTS)
def test_contract(name, runtime, server):
    run(interpreter(runtime), server, name)


@pytest.mark.skipif(not ROOT, reason="only root can be somebody else")
@pytest.mark.parametrize("runtime", ["cpython", "micropython"])
def test_contract_with_a_user_who_may_do_nothing(runtime, server):
    command = interpreter(runtime)
    if runtime == "cpython":  # ours may be in a folder that only root can read
        command = [shutil.which("python3", path="/usr/bin") or pytest.skip("no /usr/bin/python3")]
    folder = pathlib.Path(tempfile.mkdtemp())
    try:
        micropython.copy_sources(["cpe_agent/pyubus", "cpe_agent/__init__.py"], folder)
        micropython.copy_sources(["tests/unit/pyubus/contract.py"], folder)
        shutil.copyfile(RUN, folder / "run_contract.py")
        for path in [folder, *folder.rglob("*")]:  # whatever the umask was
            path.chmod(0o755)
        for parent in pathlib.Path(server.path).parents[:3]:
            parent.chmod(0o755)
        with Ubus(server.path) as owner:
            node = owner.bus.add_object("test.root", contract.ECHO)
            assert owner.wait(contract.PATIENCE, lambda: node.status == pyubus.OK)
            run(command, server, DENIED, str(folder), user=NOBODY, group=NOBODY, extra_groups=[])
    finally:
        shutil.rmtree(folder)
