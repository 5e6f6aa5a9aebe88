"""Network namespaces joined by veth links, for tests that want real kernels and real daemons.

    with Network() as net:
        cpe, isp = net.namespace("cpe"), net.namespace("isp")
        net.link(cpe, "wan", isp, "eth0")
        cpe.put_address("wan", "198.51.100.2/24")
        cpe.run(["ping", "-c1", "198.51.100.1"])

Root makes the namespaces as root; anybody else inside one user namespace, where they are root. Each
is kept by a holder process that waits for the end of its input, so namespaces and links vanish with
the test, even with one that is killed; so do the commands that were started in them, except for
daemons, which leave their parents: only the end of the with block finds those.
"""

import contextlib
import os
import pathlib
import signal
import subprocess

_HOLDER = ["sh", "-c", "ip link set lo up && echo ready && exec cat"]
_PATIENCE = 10  # s; for a command that only asks the kernel
_ADVICE = (
    "cannot make %s: %s\n"
    "The tests need network namespaces: run them as root, or let ordinary users make user "
    "namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)."
)


class NamespaceError(RuntimeError):
    """This host does not let us make namespaces; the text says what to change."""


class Namespace:
    """A network and mount namespace of its own."""

    def __init__(self, name, prefix):
        """prefix: words that enter the user namespace, or none."""
        self.name = name
        self._started = []
        self._holder = _hold("namespace '%s'" % name, [*prefix, "unshare", "--net", "--mount"])
        self.pid = self._holder.pid
        self._enter = [*prefix, "nsenter", "--target", str(self.pid), "--net", "--mount"]
        # A command must not outlive the tests, however they end.
        self._enter += ["--wdns=" + os.getcwd(), "setpriv", "--pdeathsig", "KILL", "--"]

    def run(self, words, **options):
        """Run a command to its end; subprocess.run's options. Text, captured, errors raise."""
        defaults = {"check": True, "capture_output": True, "text": True, "timeout": _PATIENCE}
        done = subprocess.run([*self._enter, *words], **{**defaults, **options, "check": False})
        if options.get("check", True) and done.returncode:
            raise RuntimeError(
                "%s: %s ended with %d: %s%s"
                % (self.name, " ".join(words), done.returncode, done.stdout, done.stderr)
            )
        return done

    def popen(self, words, **options):
        """Start a command; subprocess.Popen's options. Its pid is the command's own."""
        process = subprocess.Popen([*self._enter, *words], **options)
        self._started.append(process)
        return process

    def put_address(self, device, address):
        """Add an address with its prefix length; ready for use at once."""
        words = ["ip", "address", "add", address, "dev", device]
        self.run([*words, "nodad"] if ":" in address else words)

    def add_route(self, destination, gateway):
        """Add a route to a prefix, or 'default', through a neighbour."""
        family = "-6" if ":" in gateway else "-4"
        self.run(["ip", family, "route", "add", destination, "via", gateway])

    def close(self):
        """Kill what runs inside, also daemons that left their parents, then the namespace."""
        for process in self._started:
            process.kill()
            process.wait()
            _close_streams(process)
        for pid in self._inhabitants():
            os.kill(pid, signal.SIGKILL)
        _let_go(self._holder)

    def _inhabitants(self):
        own = os.readlink("/proc/%d/ns/net" % self.pid)
        for entry in pathlib.Path("/proc").iterdir():
            try:
                if (entry / "ns/net").readlink() == pathlib.Path(own) and int(
                    entry.name
                ) != self.pid:
                    yield int(entry.name)
            except (OSError, ValueError):
                pass  # another user's, ended meanwhile, or no process


class Network:
    """Namespaces and the links between them; a context manager that leaves nothing behind."""

    def __init__(self):
        self._prefix = []
        self._cleanup = contextlib.ExitStack()

    def __enter__(self):
        if os.geteuid():
            words = ["unshare", "--user", "--map-root-user", "--net"]
            user = _hold("a user namespace", words)
            self._cleanup.callback(_let_go, user)
            self._prefix = ["nsenter", "--target", str(user.pid), "--user"]
            self._prefix += ["--preserve-credentials", "--"]
        return self

    def __exit__(self, *_):
        self._cleanup.close()

    def namespace(self, name):
        """A new Namespace, with nothing but its loopback up."""
        namespace = Namespace(name, self._prefix)
        self._cleanup.callback(namespace.close)
        return namespace

    def link(self, one, one_device, other, other_device):
        """Join two namespaces by a veth pair, and bring both ends up."""
        words = ["ip", "link", "add", "name", one_device, "type", "veth"]
        words += ["peer", "name", other_device]
        one.run([*words, "netns", str(other.pid)])
        one.run(["ip", "link", "set", "dev", one_device, "up"])
        other.run(["ip", "link", "set", "dev", other_device, "up"])


def _hold(what, words):
    """A process that keeps the namespaces that the words make. Raises NamespaceError."""
    pipe = subprocess.PIPE
    holder = subprocess.Popen([*words, *_HOLDER], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    if holder.stdout.readline() != "ready\n":
        _, reason = holder.communicate(timeout=_PATIENCE)
        raise NamespaceError(_ADVICE % (what, reason.strip()))
    return holder


def _let_go(holder):
    holder.communicate(timeout=_PATIENCE)


def _close_streams(process):
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(BrokenPipeError):  # it was killed with words in the pipe
                stream.close()
