"""Config, control socket and command line, with what people and programs do wrong there."""

import contextlib
import json
import socket
import threading
import time

import pytest

from cpe_agent import control
from tests.unit.shell import rig

FULL = ("192.0.2.3", 37056, 32)
WRONG = "softwire 'wan4': option ports 'many' cannot be used; allowed: 1 to 65535 or 'max'"


def held(found):
    return found["state"], found["address"], found["first_port"], found["size"]


# Config


def test_a_wrong_value_at_the_first_start_is_named_and_nothing_runs(make_agent):
    agent = make_agent(ports="many")
    done = agent.cli("run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "cpe-agent: %s: %s\n" % (agent.config, WRONG)


def test_a_wrong_value_at_a_start_leaves_the_last_good_config_in_force(make_peer, make_agent):
    make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    agent.kill()
    agent.configure(ports="many")
    agent.start()
    text = agent.wait_error(WRONG)
    assert text.endswith("running on the last good configuration until it is corrected")
    assert held(agent.wait_held()) == ("up", *FULL)
    agent.configure()
    assert agent.cli("reload").returncode == 0
    assert agent.status()["errors"] == []


def test_a_wrong_value_at_a_reload_leaves_the_line_alone(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    peer.request()
    agent.configure(ports="many")
    done = agent.cli("reload")
    assert done.returncode == 2
    assert WRONG in done.stderr
    found = agent.status()
    assert held(found) == ("up", *FULL)
    assert WRONG in found["errors"][0]
    agent.configure()
    done = agent.cli("reload")
    assert (done.returncode, done.stdout) == (0, "nothing has changed\n")
    assert agent.status()["errors"] == []
    assert peer.quiet(0.3)


BAD_FILES = {
    "missing": None,
    "empty": b"",
    "binary": bytes(range(256)),
    "two lines": b"config softwire\nconfig softwire\n",
    "half a quote": b"config softwire 'a\n",
    "no server": b"config softwire\n option ports '5'\n",
}


@pytest.mark.parametrize("what", sorted(BAD_FILES))
def test_a_config_that_is_none_is_said_in_one_line(make_agent, what):
    agent = make_agent()
    agent.config.unlink()
    if BAD_FILES[what] is not None:
        agent.config.write_bytes(BAD_FILES[what])
    done = agent.cli("check")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(agent.config) in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_long_config_file_is_a_good_one_too(make_peer, make_agent):
    """Comments make files long. The copy for bad days is read back, and written once."""
    make_peer(rig.grant())
    agent = make_agent()
    with agent.config.open("a") as file:
        file.write("# long\n" * 1000)
    agent.start()
    agent.wait_held()
    copy = agent.directory / "flash" / "config.good"
    inode = copy.stat().st_ino
    assert agent.cli("reload").stdout == "nothing has changed\n"
    assert copy.stat().st_ino == inode
    agent.kill()
    agent.config.write_text("garbage")
    agent.start()
    assert held(agent.wait_held()) == ("up", *FULL)


def test_other_settings_ask_anew(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    peer.request()
    agent.configure(ports="32", internal_port="5")
    assert agent.cli("reload").stdout == "configuration taken up\n"
    deletion, _ = peer.request()
    assert (deletion.lifetime, deletion.map.internal_port) == (0, 1)
    request, _ = peer.request()
    assert (request.lifetime, request.map.internal_port) == (3600, 5)


# Control socket


@pytest.fixture
def running(make_peer, make_agent):
    """An agent that holds a set."""
    make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    return agent


def connect(agent):
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(agent.socket))  # waits while the queue is full
    client.settimeout(rig.PATIENCE)
    return client


def say(agent, data):
    """What comes back, or nothing when the agent hangs up."""
    with connect(agent) as client:
        with contextlib.suppress(BrokenPipeError):
            client.sendall(data)
        try:
            return client.makefile("rb").read()
        except ConnectionResetError:
            return b""


GARBAGE = {
    "empty": b"\n",
    "text": b"status\n",
    "binary": bytes(range(256)),
    "list": b"[]\n",
    "number": b"1\n",
    "null": b"null\n",
    "no command": b"{}\n",
    "unknown command": b'{"command": "reboot"}\n',
    "command of no text": b'{"command": []}\n',
    "command of another kind": b'{"command": {"a": 1}}\n',
    "deep": b"[" * 4000 + b"\n",
    "huge": b'{"command": "' + b"x" * 300000,
    "cut": b'{"command": "sta',
}


@pytest.mark.parametrize("what", sorted(GARBAGE))
def test_garbage_at_the_socket_harms_nobody(running, what):
    answer = say(running, GARBAGE[what])
    assert not answer or "error" in json.loads(answer)
    assert held(running.status()) == ("up", *FULL)


def test_clients_that_hang_up_harm_nobody(running):
    for _ in range(10):
        connect(running).close()
        with connect(running) as client:
            client.sendall(b'{"command": "status"}\n')
    assert held(running.status()) == ("up", *FULL)


def test_while_clients_hang_at_the_socket_others_get_their_answer(running):
    """Four fill the queue of the socket; a fifth must wait, not be told that nobody is there."""
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(str(running.socket))
        assert held(running.status()) == ("up", *FULL)


def test_fifty_clients_at_once_are_all_answered(running):
    answers = []

    def ask():
        answers.append(running.status()["state"])

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["up"] * 50


def test_a_hanging_client_does_not_stop_the_protocol(make_peer, make_agent):
    peer = make_peer()
    agent = make_agent()
    agent.start()
    first, _ = peer.request()
    with connect(agent):
        started = time.monotonic()
        again, _ = peer.request()  # retransmission: three seconds later
        assert time.monotonic() - started < 4
    assert again.map.nonce == first.map.nonce


# Command line


def test_a_second_agent_says_that_there_is_one(running):
    done = running.cli("run")
    assert done.returncode == 1
    assert done.stderr == "cpe-agent: an agent is running already (%s)\n" % running.socket
    assert held(running.status()) == ("up", *FULL)


def test_the_socket_of_an_agent_that_was_killed_is_in_nobodys_way(running):
    running.kill()
    assert running.socket.exists()
    assert running.cli("status").returncode == 3
    assert running.start()["state"] == "up"


def test_status_shows_the_set_to_people_and_programs(running):
    done = running.cli("status")
    assert done.returncode == 0
    assert "ports       37056-37087 (32)" in done.stdout
    found = json.loads(running.cli("status", "--json").stdout)
    assert held(found) == ("up", *FULL)


def test_status_without_a_set_fails(make_agent):
    agent = make_agent()
    agent.start()
    done = agent.cli("status")
    assert done.returncode == 1
    assert "asking for a port set" in done.stdout


@pytest.mark.parametrize("command", ["status", "renew", "reload", "print-nft"])
def test_without_an_agent_it_says_so(make_agent, command):
    done = make_agent().cli(command)
    assert (done.returncode, done.stdout) == (3, "")
    assert "no agent answers at" in done.stderr
    assert "start one with" in done.stderr


USAGE = [
    (["help"], 0),
    (["--help"], 0),
    ([], 0),
    (["version"], 0),
    (["--version"], 0),
    (["check"], 0),
    (["frobnicate"], 2),
    (["status", "--xml"], 2),
    (["renew", "now"], 2),
    (["--frobnicate", "status"], 2),
    (["status", "--state-dir"], 2),
    (["print-nft", "192.0.2.3", "1024"], 2),
    (["print-nft", "192.0.2.3", "1024", "1024"], 0),
    (["print-nft", "192.0.2.3", "65535", "2"], 2),
    (["print-nft", "192.0.2.3", "0", "2"], 2),
    (["print-nft", "192.0.2.3", "x", "2"], 2),
    (["print-nft", "127.0.0.1", "1024", "2"], 2),
    (["print-nft", "example.org", "1024", "2"], 2),
]


@pytest.mark.parametrize(("words", "code"), USAGE, ids=lambda value: str(value))
def test_exit_codes(make_agent, words, code):
    done = make_agent().cli(*words)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)
    assert bool(done.stderr) == (code != 0)
    assert "Traceback" not in done.stderr


def test_release_with_a_wrong_config_and_no_agent_says_what_is_wrong(make_agent):
    done = make_agent(ports="many").cli("release")
    assert done.returncode == 2
    assert WRONG in done.stderr


def test_an_answer_that_is_none_counts_as_no_agent(tmp_path):
    path = str(tmp_path / "control")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(1)
        threading.Thread(target=lambda: server.accept()[0].close()).start()
        with pytest.raises(control.NotRunning):
            control.ask(path, "status")


def test_disabling_the_softwire_gives_the_set_back_and_enabling_asks_anew(make_peer, make_agent):
    peer = make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    peer.request()
    agent.configure(enabled="0")
    assert agent.cli("reload").returncode == 0
    assert agent.wait(lambda found: found["state"] == "disabled", "disabled")
    assert peer.request()[0].lifetime == 0
    agent.configure()
    assert agent.cli("reload").returncode == 0
    agent.wait_held()


def test_octets_that_are_no_text_leave_the_line_on_the_last_good_config(make_peer, make_agent):
    make_peer(rig.grant())
    agent = make_agent()
    agent.start()
    agent.wait_held()
    good = agent.config.read_bytes()
    agent.config.write_bytes(good + b"# \xff\xfe\n")
    assert agent.cli("reload").returncode == 2
    assert agent.status()["state"] == "up" and agent.status()["errors"]
    agent.kill()
    agent.start()
    assert agent.wait_held()["errors"]
    agent.config.write_bytes(good)
    assert agent.cli("reload").returncode == 0
    assert agent.status()["errors"] == []


def test_the_nonce_is_kept_while_the_server_may_hold_the_mapping(make_peer, make_agent):
    yes, no = rig.grant(), rig.refuse(7)
    peer = make_peer(lambda request: yes(request) if request.lifetime else no(request))
    agent = make_agent()
    agent.start()
    agent.wait_held()
    nonce = peer.request()[0].map.nonce
    assert agent.cli("release").returncode == 0  # and the server's network has failed
    agent.cli("renew")
    agent.wait_held()
    while not peer.requests.empty():
        assert peer.request()[0].map.nonce == nonce


# Words and folders that cannot be

LONG = "/tmp/" + "x" * 95
WRONG_WORDS = [
    (["print-nft", "192.0.2.1", "abc", "5"], "'print-nft' takes an IPv4 address, a first port"),
    (["print-nft", "192.0.2.1", "5", "-1"], "'print-nft' takes an IPv4 address, a first port"),
    (["print-nft", "300.0.2.1", "5", "5"], "300.0.2.1 is not an IPv4 address"),
    (["print-nft", "192.0.2.1", "65535", "5"], "5 ports from 65535 do not end by 65535"),
    (["learn", "../x", "dhcpv6"], "'../x' is no name of an interface; allowed: 1 to 15 letters"),
    (["--run-dir", LONG, "status"], "--run-dir is 100 octets long; allowed: 99"),
    (["--run-dir", LONG, "run"], "--run-dir is 100 octets long; allowed: 99"),
    (["--run-dir=run", "status"], "--run-dir 'run' must begin with '/'"),
    (["--state-dir", "flash", "run"], "--state-dir 'flash' must begin with '/'"),
]


@pytest.mark.parametrize(("words", "text"), WRONG_WORDS, ids=lambda value: str(value)[-20:])
def test_words_that_cannot_be_are_told_in_one_line(make_agent, words, text):
    done = make_agent().cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr and done.stderr.count("\n") == 1


def test_the_longest_folder_that_a_socket_fits_in_is_taken(make_peer, make_agent, tmp_path):
    """A unix socket's path has 107 octets at most."""
    make_peer(rig.grant())
    room = 99 - len(str(tmp_path)) - 1
    if room < 1:
        pytest.skip("the tests' own folder has too long a name: %s" % tmp_path)
    folder = tmp_path / ("é" * (room // 2) + "x" * (room % 2))
    agent = make_agent()
    agent.run_dir = folder
    agent.start()
    agent.wait_held()
    assert agent.cli("status").returncode == 0


@pytest.mark.parametrize("command", ["run", "release", "learn wan dhcpv6"])
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_run_dir_that_is_no_folder_is_told_in_one_line(make_agent, command, below):
    agent = make_agent()
    file = agent.directory / "file"
    file.write_text("")
    agent.run_dir = str(file) + below
    done = agent.cli(*command.split())
    assert done.returncode == 1
    assert "cannot create %s%s: " % (file, below) in done.stderr
    assert done.stderr.count("\n") == 1
    assert file.read_text() == ""


def test_a_state_dir_that_is_no_folder_is_told_in_one_line(make_agent):
    agent = make_agent()
    (agent.directory / "flash").write_text("")
    done = agent.cli("run")
    assert done.returncode == 1
    assert "cannot create %s/flash: " % agent.directory in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_socket_that_cannot_be_made_is_told_in_one_line(make_agent):
    agent = make_agent()
    agent.socket.mkdir(parents=True)
    done = agent.cli("run")
    assert done.returncode == 1
    assert "cannot listen at %s: " % agent.socket in done.stderr
    assert done.stderr.count("\n") == 1
