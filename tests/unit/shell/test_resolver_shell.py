"""The stub resolver on real sockets, in a namespace of its own: against dnsmasq, which nobody here
wrote, and against name servers that lie, on both runtimes."""

import contextlib
import json
import pathlib
import struct
import subprocess
import sys

import pytest

from tests.support.netns import Network

PROGRAM = pathlib.Path(__file__).with_name("resolver_program.py")
LIAR = pathlib.Path(__file__).with_name("liar_program.py")
AFTR = "aftr.example.net"
BOTH = "2001:db8::1,192.0.2.1"
_RECORDS = [
    "--host-record=%s,192.0.2.1,2001:db8::1" % AFTR,
    "--cname=lw.example.net,%s" % AFTR,
    "--host-record=six.example.net,2001:db8::6",
    "--host-record=four.example.net,192.0.2.4",
    "--host-record=nowhere.example.net,0.0.0.0,::",
    "--address=/none.example.net/",
    "--local-ttl=300",
]


@pytest.fixture(scope="module")
def host():
    with Network() as network:
        made = network.namespace("host")
        made.run(["ip", "address", "add", "2001:db8:53::1/128", "dev", "lo"])
        yield made


@pytest.fixture
def dnsmasq(host):
    """dnsmasq(address): a real name server with the records above."""
    with contextlib.ExitStack() as stack:

        def start(address):
            words = ["dnsmasq", "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null"]
            words += ["--no-resolv", "--no-hosts", "--user=root", "--group=root", "--pid-file="]
            words += ["--bind-interfaces", "--listen-address=" + address, *_RECORDS]
            process = host.popen(words, stderr=subprocess.PIPE, text=True)
            stack.callback(end, process)
            said = ""
            for line in process.stderr:
                said += line
                if "started" in line:
                    return
            raise AssertionError("dnsmasq has not started: " + said)

        yield start


@pytest.fixture
def liar(host):
    """liar(address, behaviour): a name server from liar_program.py; gives what it was asked."""
    with contextlib.ExitStack() as stack:

        def start(address, behaviour):
            words = [sys.executable, str(LIAR), address, behaviour]
            process = host.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(end, process)
            assert process.stdout.readline() == "ready\n"

            def seen():
                process.stdin.close()
                return [json.loads(line) for line in process.stdout]

            return seen

        yield start


def end(process):
    process.kill()
    process.wait()


@pytest.fixture
def resolve(host, runtime, tmp_path):
    """resolve(name servers, names, jumps): the lines that the program prints."""

    def run(asked, *names, jumps=0):
        resolv_conf = tmp_path / "resolv.conf"
        resolv_conf.write_text("".join("nameserver %s\n" % one for one in asked))
        done = host.run(
            [runtime, str(PROGRAM), str(resolv_conf), str(jumps or 20), *names], timeout=120
        )
        lines = done.stdout.splitlines()
        assert lines.pop() == "files left open: 0"
        return lines

    return run


def last(lines, name):
    return [line for line in lines if line.startswith(name + " ")][-1]


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "2001:db8:53::1"])
def test_names_are_resolved_by_a_real_name_server(dnsmasq, resolve, server):
    dnsmasq(server)
    lines = resolve([server], AFTR, "lw.example.net", "six.example.net", "four.example.net")
    assert last(lines, AFTR) == AFTR + " %s -" % BOTH
    assert last(lines, "lw.example.net") == "lw.example.net %s -" % BOTH
    assert last(lines, "six.example.net") == "six.example.net 2001:db8::6 -"
    assert last(lines, "four.example.net") == "four.example.net 192.0.2.4 -"


def test_names_without_usable_addresses_say_so(dnsmasq, resolve):
    dnsmasq("127.0.0.1")
    names = ["none.example.net", "nowhere.example.net", "refused.example.org"]
    lines = resolve(["127.0.0.1"], *names, jumps=2)
    assert last(lines, names[0]) == names[0] + " - the name has no usable address"
    assert last(lines, names[1]) == names[1] + " - the name has no usable address"
    assert last(lines, names[2]) == names[2] + " - the name server says REFUSED"


def test_a_name_server_that_does_not_listen_passes_the_question_on(dnsmasq, resolve):
    dnsmasq("127.0.0.1")
    lines = resolve(["::1", "127.0.0.2", "127.0.0.1"], AFTR)
    assert last(lines, AFTR) == AFTR + " %s -" % BOTH


def test_without_any_name_server_the_error_says_so(resolve):
    line = last(resolve(["127.0.0.1", "192.0.2.53"], AFTR, jumps=3), AFTR)
    assert line.startswith(AFTR + " - no name server can be reached: "), line


def test_a_missing_resolv_conf_means_this_host(host, dnsmasq, runtime):
    dnsmasq("127.0.0.1")
    done = host.run([runtime, str(PROGRAM), "/nonexistent/resolv.conf", "20", AFTR])
    assert AFTR + " %s -" % BOTH in done.stdout.splitlines()


def test_a_silent_name_server_is_passed_over(dnsmasq, liar, resolve):
    silent = liar("127.0.0.2", "silent")
    dnsmasq("127.0.0.1")
    lines = resolve(["127.0.0.2", "127.0.0.1"], AFTR)
    assert last(lines, AFTR) == AFTR + " %s -" % BOTH
    assert len(silent()) == 2


def test_every_query_has_a_port_and_an_identifier_of_its_own(liar, resolve):
    silent = liar("127.0.0.1", "silent")
    assert "no name server answers" in last(resolve(["127.0.0.1"], AFTR, jumps=4), AFTR)
    seen = silent()
    assert len(seen) == 2 * 3 + 2  # three rounds for each kind, and the retry after them
    assert len({one["port"] for one in seen}) == len(seen)
    identifiers = {struct.unpack(">H", bytes.fromhex(one["data"])[:2])[0] for one in seen}
    assert len(identifiers) >= len(seen) - 1


@pytest.mark.parametrize("behaviour", ["wrong-identifier", "wrong-question", "wrong-port", "noise"])
def test_forged_answers_before_the_true_one_are_not_believed(liar, resolve, behaviour):
    liar("127.0.0.1", behaviour)
    line = last(resolve(["127.0.0.1"], AFTR), AFTR)
    assert line == AFTR + " 2001:db8::7777 -"


@pytest.mark.parametrize("behaviour, words", [("truncated", "does not fit"), ("cut", "cut off")])
def test_answers_that_cannot_be_read_are_failures(liar, resolve, behaviour, words):
    liar("127.0.0.1", behaviour)
    line = last(resolve(["127.0.0.1"], AFTR, jumps=1), AFTR)
    assert line.startswith(AFTR + " - ") and words in line, line
