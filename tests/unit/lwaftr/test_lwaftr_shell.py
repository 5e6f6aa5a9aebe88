"""The shell with real sockets: PCP on the loopback, the whole in a user namespace."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lwaftr import ctl
from lwaftr_helpers import map_request

from cpe_agent.pcp import wire

ROOT = Path(__file__).parents[3]
PATHS = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "qemu-lab")))}
LOOPBACK = bytes(15) + b"\1"


@pytest.fixture
def lab(tmp_path):
    """(port, control socket) of a PCP server alone on ::1."""
    control = str(tmp_path / "control")
    process = subprocess.Popen(
        [sys.executable, "-m", "lwaftr", "--pcp-only", "--listen", "::1", "--port", "0"]
        + ["--control", control],
        env={**os.environ, **PATHS},
        stdout=subprocess.PIPE,
    )
    ready = process.stdout.readline().decode()
    yield int(ready.rsplit(":", 1)[1]), control
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close()
    assert not os.path.exists(control)


def ask(client, port, data):
    client.sendto(data, ("::1", port))
    answer, peer = client.recvfrom(2000)
    return wire.parse_response(answer), peer[1]


def test_pcp_alone(lab):
    port, control = lab
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.bind(("::1", 0))
        answer, peer = ask(client, port, map_request(LOOPBACK))
        assert (answer.result, peer) == (wire.SUCCESS, port)
        ctl.call(control, "fault", {"other_port": 100})
        answer, peer = ask(client, port, map_request(LOOPBACK))
        assert peer != port
        assert ctl.call(control, "fault", {"reset": True})["ok"]
        client.sendto(b"garbage", ("::1", port))
        assert ctl.call(control, "update", {"client": "::1"})["ok"]
        client.recv(2000)
    (binding,) = ctl.call(control, "bindings")["bindings"]
    assert binding["client"] == "::1"
    assert len(ctl.call(control, "messages")["messages"]) >= 5


@pytest.fixture
def alone(tmp_path):
    """(port, log file) of what one command without a configuration starts."""
    log = tmp_path / "log"
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "lwaftr", "--pcp-only", "--port", "0"],
            env={**os.environ, **PATHS},
            stdout=subprocess.PIPE,
            stderr=file,
        )
    ready = process.stdout.readline().decode()
    assert ready.startswith("lwaftr: ready on ::1 and 127.0.0.1, UDP port: ")
    yield int(ready.rsplit(":", 1)[1]), log
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    process.stdout.close()


@pytest.mark.parametrize(
    ("family", "host", "client"),
    [
        (socket.AF_INET6, "::1", LOOPBACK),
        (socket.AF_INET, "127.0.0.1", wire.V4_PREFIX + bytes((127, 0, 0, 1))),
    ],
)
def test_one_command_serves_both_families_and_says_what_it_does(alone, family, host, client):
    port, log = alone
    with socket.socket(family, socket.SOCK_DGRAM) as peer:
        peer.settimeout(5)
        request = {"client": client, "protocol": 6, "internal": 80, "size": None, "port": 8080}
        peer.sendto(map_request(**request), (host, port))
        answer, sender = peer.recvfrom(2000)
        assert sender[:2] == (host, port) and wire.parse_response(answer).map.external_port == 8080
        peer.sendto(map_request(**request, nonce=b"x" * 12), (host, port))
        assert wire.parse_response(peer.recv(2000)).result == wire.NOT_AUTHORIZED
        peer.sendto(b"\2\x81x", (host, port))
        place = "%s:%d" % (host if family == socket.AF_INET else "[::1]", peer.getsockname()[1])
        peer.sendto(b"\2\2" + bytes(78), (host, port))
        peer.recv(2000)
    suggested = "MAP, for 3600 s, tcp, internal port 80, suggests 0.0.0.0:8080"
    said = re.sub(r"epoch \d+", "epoch 0", log.read_text())
    said = re.sub(r"(NOT_AUTHORIZED, for) \d+", r"\1 3600", said)
    assert said.splitlines() == [
        "from %s: %s" % (place, suggested),
        "  to %s: MAP, SUCCESS, tcp 192.0.2.1:8080 from internal port 80, for 3600 s, epoch 0"
        % place,
        "from %s: %s" % (place, suggested),
        "  to %s: MAP, NOT_AUTHORIZED, for 3600 s, epoch 0" % place,
        "from %s: 3 octets that are no PCP request" % place,
        "from %s: PEER" % place,
        "  to %s: PEER, ADDRESS_MISMATCH, for 1800 s, epoch 0" % place,
    ]


def test_control_survives_nonsense(lab):
    _, control = lab
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(control)
        client.sendall(b"nonsense\n[1]\n" + b'{"command": "status"}\n')
        with client.makefile("rb") as lines:
            answers = [json.loads(lines.readline())["ok"] for _ in range(3)]
    assert answers == [False, False, True]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(control)
    assert ctl.call(control, "status")["ok"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**os.environ, **PATHS},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_ctl_command_line(lab):
    _, control = lab
    done = run("lwaftr.ctl", control, "fault", '{"loss": 5}')
    assert done.returncode == 0 and json.loads(done.stdout)["faults"]["loss"] == 5
    assert run("lwaftr.ctl", control, "explode").returncode == 1
    assert run("lwaftr.ctl", control, "fault", "{").returncode == 2
    assert run("lwaftr.ctl", control).returncode == 2
    assert run("lwaftr.ctl", control + "x", "status").returncode == 1


def test_wrong_configuration_exits_with_2(tmp_path):
    path = tmp_path / "lab.json"
    path.write_text('{"pool": {"set_size": 0}}')
    done = run("lwaftr", "--config", str(path))
    assert done.returncode == 2
    assert "pool.set_size" in done.stderr and "1 to 65535" in done.stderr
    assert run("lwaftr", "--check").returncode == 0


def test_an_example_configuration_is_printed_and_right(tmp_path):
    path = tmp_path / "lab.toml"
    path.write_text(run("lwaftr", "--example-config").stdout)
    assert "set_size = 1024" in path.read_text()
    words = [sys.executable, "-m", "lwaftr", "--config", str(path), "--port", "0"]
    with subprocess.Popen(words, env={**os.environ, **PATHS}, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"lwaftr: ready on ::1 and 127.0.0.1, UDP")
        process.terminate()
    assert process.returncode == 0


def test_addresses_to_listen_on():
    for words in (["::1", "::2"], ["127.0.0.1", "127.0.0.2"], ["::1", "127.0.0.1", "::2"]):
        listen = [part for word in words for part in ("--listen", word)]
        done = run("lwaftr", "--pcp-only", "--check", *listen)
        assert done.returncode == 2 and "--listen: allowed: one IPv6 address" in done.stderr
    both = run("lwaftr", "--check", "--listen", "::1", "--listen", "127.0.0.1")
    assert both.returncode == 2 and "server.address4" in both.stderr


def test_a_socket_that_cannot_be_opened_exits_with_1():
    done = run("lwaftr", "--pcp-only", "--listen", "2001:db8::7", "--port", "0")
    assert done.returncode == 1 and "2001:db8::7" in done.stderr


def _namespaces():
    probe = "ip link add near type veth peer name far && ip tuntap add dev lw0 mode tun"
    try:
        subprocess.run(
            ["unshare", "-Urn", "sh", "-c", probe],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@pytest.mark.skipif(not _namespaces(), reason="no user namespaces with veth and TUN here")
def test_everything_in_a_namespace(tmp_path):
    peer = Path(__file__).with_name("lwaftr_namespace_peer.py")
    done = subprocess.run(
        ["unshare", "-Urn", sys.executable, str(peer), str(tmp_path)],
        env={**os.environ, **PATHS},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["granted"] == ["192.0.2.3", 1024, 1024]
    assert seen["out"] == ["out", ["192.0.2.3", 1029]]
    assert seen["back"] == [1500, "x"]
    assert seen["icmp6"] == [1, 5] and seen["stolen_arrived"] is False
    assert seen["notice"] == [wire.OP_ANNOUNCE, wire.SUCCESS, 0]
    assert seen["multicast"] == ["0280" + "00" * 22, "2001:db8:ffff::1", 5351]
    assert seen["counters"]["totals"]["packets_inside_set"] == 1
    assert seen["counters"]["outside_set"]["port"] == 1
    assert seen["counters"]["used_ports"] == {"192.0.2.3": {"udp": [[1029, 1029]]}}
    assert seen["exit"] == 0
