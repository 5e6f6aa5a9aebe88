"""The two guests and the links between them.

      internet --- [ isp: lwAFTR ] === access === [ cpe ] --- home --- lan

"internet" (198.51.100.1, .2, 203.0.113.1) and "lan" (192.168.1.10) are network namespaces of the
guest isp; so one guest plays everything that is not the router. A second home has a router of its
own, "cpe2", and "lan2", whose addresses are those of the first. The lwAFTR's address
2001:db8:ffff::1 is not on the access link (2001:db8:c0de::/64): a routed path, as in real
networks. Links are pairs of UDP sockets on a loopback address of the lab's own: no root, no order
of starting, and a guest can be killed and come back. (Unix datagram sockets did that too, but where
the other end does not read, QEMU tries again without end, and its guest stands still meanwhile.)
Each link is captured as it passes, on the isp's side, which stays.
"""

import contextlib
import json
import random
import shlex
import shutil
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import writelog
from .guest import PATIENCE, Guest, LabError, Machine

HERE = Path(__file__).resolve().parent
LAB = HERE.parent
ROOT = LAB.parent
sys.path.insert(0, str(LAB))
import images  # noqa: E402  (a script beside this package, not an installed module)

CPE_MEMORY = 96  # MiB; stands for a 64 MB router: 41 go to Debian's kernel, far bigger than its
ISP_MEMORY = 160  # MiB
FLASH_SIZE = 16 << 20  # bytes
ISP_CARDS = (1, 2, 5, 6)  # numbers of the isp's network cards, in the order of the links
BOOT_ARGS = (
    "console=ttyS0 quiet panic=-1 root=/dev/nvme0n1 rootfstype=ext4 ro rootwait "
    "init=/usr/bin/linuxrc nr_cpus=1 nvme.io_queue_depth=8 mitigations=off audit=0 "
    "apparmor=0 trace_buf_size=1K log_buf_len=32K no_timer_check"
)
LINK_PORTS = range(4446, 4454)  # two for each link, on the lab's own loopback address
ACCESS = ("2001:db8:c0de", "2001:db8:c0de:2")  # prefix of each home's access link, a /64
LWAFTR_ADDRESS = "2001:db8:ffff::1"
LWAFTR_CONTROL = "/run/lwaftr.sock"


@dataclass(frozen=True)
class Link:
    """A cable between two guests' network cards, captured in `pcap`."""

    name: str
    host: str
    ports: dict  # of each end
    pcap: Path

    def card(self, end, number, capture):
        """QEMU's arguments for the card at one end ("a" or "b") of this link.

        number: makes the MAC address, unique in the lab. The boot ROM is left out: nobody
        boots from the network.
        """
        other = "b" if end == "a" else "a"
        mac = f"52:54:00:c0:de:{number:02x}"
        arguments = [
            "-netdev",
            f"dgram,id={self.name},local.type=inet,local.host={self.host},"
            f"local.port={self.ports[end]},remote.type=inet,remote.host={self.host},"
            f"remote.port={self.ports[other]}",
            "-device",
            f"virtio-net-pci,netdev={self.name},romfile=,mac={mac}",
        ]
        if capture:
            most = "" if capture is True else f",maxlen={capture}"
            arguments += [
                "-object",
                f"filter-dump,id=dump-{self.name},netdev={self.name},file={self.pcap}{most}",
            ]
        return arguments


def own_loopback():
    """A loopback address on which nobody uses our ports."""
    chance = random.SystemRandom()
    for _ in range(100):
        host = "127." + ".".join(str(chance.randint(1, 254)) for _ in range(3))
        with contextlib.ExitStack() as stack:
            try:
                for port in LINK_PORTS:
                    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    sock.bind((host, port))
            except OSError:
                continue
            return host
    raise LabError("UDP on loopback addresses (127.0.0.0/8) is not possible here")


def disk(path, node, readonly, device="virtio-blk-pci"):
    """QEMU's arguments for a raw disk."""
    only = "on" if readonly else "off"
    return [
        "-blockdev",
        f"driver=file,node-name={node}-file,filename={path},read-only={only}",
        "-blockdev",
        f"driver=raw,node-name={node},file={node}-file,read-only={only}",
        "-device",
        f"{device},drive={node}",
    ]


def root_disk(path):
    # NVMe, because its driver is in the kernel: no initramfs is needed, nor the RAM it unpacks to.
    return disk(path, "root", True, "nvme,serial=root,max_ioqpairs=1")


def copy_tree(source, target):
    skip = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(source, target, ignore=skip)


class Lab:
    """All guests, wired; a context manager.

    workdir: where console transcripts, disks and captures go (made if missing).
    files: {path under /etc: text}, written to the router's flash disk before the first boot;
        only config/... and cpe-agent/... survive there, as on the router.
    agent: folder whose content is the router's /usr/lib/cpe-agent/cpe_agent.
    flash: an image to use, and go on writing to, as the router's flash disk; default: a new
        one, workdir/flash.img, at every start.
    flash_log: file that gets every write to the flash disk (see writelog); the image before
        the first write is kept beside it, with ".base" added to its name.
    homes: 1, or 2 for a second router, cpe2, with disks and links (access2, home2) of its own.
    capture: True, or how many octets of each packet are kept; False: no captures.
    """

    def __init__(
        self,
        workdir,
        *,
        files=None,
        agent=ROOT / "cpe_agent",
        flash=None,
        flash_log=None,
        cpe_memory=CPE_MEMORY,
        isp_memory=ISP_MEMORY,
        capture=True,
        boot_timeout=60,
        homes=1,
    ):
        self.workdir = Path(workdir).resolve()
        self.workdir.mkdir(parents=True, exist_ok=True)
        self.flash = Path(flash) if flash else self.workdir / "flash.img"
        self.flash_log = Path(flash_log) if flash_log else None
        host, ports = own_loopback(), iter(LINK_PORTS)
        self._new_flash = flash is None
        self._files = files or {}
        self._agent = Path(agent)
        self._capture = capture
        self._timeout = boot_timeout
        self.links = {
            name: Link(
                name, host, {"a": next(ports), "b": next(ports)}, self.workdir / f"{name}.pcap"
            )
            for name in ("access", "home", "access2", "home2")[: 2 * homes]
        }
        self.isp = Guest("isp", self._isp_machine(isp_memory), self.workdir)
        self.cpe = Guest("cpe", self._cpe_machine(cpe_memory), self.workdir)
        self.guests = [self.isp, self.cpe]
        if homes == 2:
            self.cpe2 = Guest("cpe2", self._second_machine(cpe_memory), self.workdir)
            self.guests.append(self.cpe2)
        self._lwaftr = None

    # ------------------------------------------------------------------ power

    def start(self, wait=True):
        """Build what is out of date, make the disks, start the guests; self."""
        began = time.monotonic()
        self._prepare()
        self._say(f"disks ready after {time.monotonic() - began:.1f} s")
        try:
            for guest in self.guests:
                guest.power_on()
            for guest in self.guests if wait else ():
                self._say(f"{guest.name} has a shell after {guest.wait_boot():.1f} s")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self):
        for guest in self.guests:
            guest.power_off()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @staticmethod
    def _say(text):
        print(f"lab: {text}", file=sys.stderr, flush=True)

    # ------------------------------------------------------------------ machines

    def _isp_machine(self, memory):
        extra = [
            *root_disk(images.BUILD / "isp.img"),
            *disk(self.workdir / "isp-code.img", "code", True),
        ]
        for number, link in enumerate(self.links.values()):
            extra += link.card("b", ISP_CARDS[number], self._capture)
        return Machine(
            memory, extra, images.BUILD / "vmlinux", BOOT_ARGS, boot_timeout=self._timeout
        )

    def _cpe_machine(self, memory):
        flash = disk(self.flash, "flash", False)
        if self.flash_log:
            flash = writelog.logged_disk(self.flash, self.flash_log)
        cards = [*self.links["access"].card("a", 3, False), *self.links["home"].card("a", 4, False)]
        return self._router_machine(memory, flash, cards, ACCESS[0])

    def _second_machine(self, memory):
        links = self.links
        cards = [*links["access2"].card("a", 7, False), *links["home2"].card("a", 8, False)]
        return self._router_machine(memory, disk(self._flash2, "flash", False), cards, ACCESS[1])

    def _router_machine(self, memory, flash, cards, access):
        extra = [
            *root_disk(images.BUILD / "cpe.img"),
            *disk(self.workdir / "cpe-code.img", "code", True),
            *flash,
            *cards,
        ]
        boot_args = f"{BOOT_ARGS} lab.access={access}"
        return Machine(
            memory, extra, images.BUILD / "vmlinux", boot_args, boot_timeout=self._timeout
        )

    @property
    def _flash2(self):
        return self.workdir / "flash2.img"

    # ------------------------------------------------------------------ disks

    def _prepare(self):
        images.build(self._targets())
        self._make_code_disks()
        self._make_router_disk()
        if self.flash_log:
            writelog.begin(self.flash, self.flash_log)

    def _targets(self):
        """What images.build has to make."""
        return ("boot", "cpe", "isp")

    def _make_router_disk(self):
        if self._new_flash:
            self._make_flash(self.flash, self._files)
        if "access2" in self.links:
            self._make_flash(self._flash2, {})

    def _fill_code_disk(self, folder):
        """What the router gets beside its own disks."""
        copy_tree(self._agent, folder / "cpe_agent")

    def _make_code_disks(self):
        """The working tree's code on small disks, so that a change of it builds no image."""
        with tempfile.TemporaryDirectory(prefix="cpelab-") as name:
            cpe, isp = Path(name, "cpe"), Path(name, "isp")
            cpe.mkdir()
            isp.mkdir()
            self._fill_code_disk(cpe)
            for part in (ROOT / "cpe_agent", LAB / "lwaftr", LAB / "guest" / "tools"):
                copy_tree(part, isp / part.name)
            images.compile_python(images.BUILD / "isp-root", isp, "/usr/lib/lab")
            images.make_ext4(cpe, self.workdir / "cpe-code.img", label="code")
            images.make_ext4(isp, self.workdir / "isp-code.img", label="code")

    @staticmethod
    def _make_flash(image, files):
        with tempfile.TemporaryDirectory(prefix="cpelab-") as name:
            for path in ("config", "cpe-agent"):
                Path(name, path).mkdir()
            for path, text in files.items():
                target = Path(name, path.removeprefix("/etc/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
            images.make_ext4(Path(name), image, FLASH_SIZE, 1024, True, "flash")

    # ------------------------------------------------------------------ what one does in a lab

    def lan(self, command, timeout=PATIENCE):
        """Run a command on the home's LAN host; a Result."""
        return self.isp.run(f"ip netns exec lan {command}", timeout)

    def internet(self, command, timeout=PATIENCE):
        """Run a command on the Internet's host; a Result."""
        return self.isp.run(f"ip netns exec internet {command}", timeout)

    def host(self, arguments, where="lan", timeout=60.0):
        """Run guest/tools/host.py in a namespace; (True if all went well, its JSON lines)."""
        result = self.isp.run(f"ip netns exec {where} {self.host_command(arguments)}", timeout)
        lines = result.json_lines()
        if not lines:
            raise self.isp.failure(f"host.py {arguments}: {result}")
        return result.code == 0, lines

    def host_job(self, arguments, where="lan"):
        """Start guest/tools/host.py in the background; a Job with JSON lines in stdout()."""
        return self.isp.spawn(f"ip netns exec {where} {self.host_command(arguments)}")

    @staticmethod
    def host_command(arguments):
        return f"python3 /usr/lib/lab/tools/host.py {arguments}"

    def flash_writes(self):
        """Writes that reached the router's flash disk since QEMU started, as QEMU counts them.

        A dict: writes, bytes, flushes. Two calls around an action tell what it wrote, if the
        router was given some seconds (or a `sync`) to write it.
        """
        for entry in self.cpe.qmp("query-blockstats"):
            if entry.get("node-name") == "flash":
                stats = entry["stats"]
                return {
                    "writes": stats["wr_operations"],
                    "bytes": stats["wr_bytes"],
                    "flushes": stats["flush_operations"],
                }
        raise self.cpe.failure("has no flash disk")

    def wait_internet(self):
        """Wait until the servers of the Internet answer."""
        self.isp.wait_until("grep -q ready /tmp/log/internet")

    def start_lwaftr(self, config=None):
        """Start the lwAFTR with a configuration (a dict like lwaftr/sample.toml); its Job."""
        config = dict(config or {})
        server = {
            "address": LWAFTR_ADDRESS,
            "access_interface": "eth0",
            "tun": "lw0",
            "control": LWAFTR_CONTROL,
        }
        config["server"] = server | config.get("server", {})
        self.isp.put("/tmp/lwaftr.json", json.dumps(config))
        self._lwaftr = self.isp.spawn(
            "env PYTHONPATH=/usr/lib/lab python3 -m lwaftr --config /tmp/lwaftr.json"
        )
        end = time.monotonic() + 30
        while "ready" not in self._lwaftr.stdout():
            if self._lwaftr.poll() is not None or time.monotonic() > end:
                raise self.isp.failure(f"the lwAFTR did not start: {self._lwaftr.stderr()}")
            time.sleep(0.1)
        return self._lwaftr

    def stop_lwaftr(self, signal="TERM"):
        return self._lwaftr.stop(signal)

    def lwaftr(self, command, **arguments):
        """One command to the running lwAFTR's control socket; its answer."""
        text = shlex.quote(json.dumps(arguments))
        result = self.isp.run(
            f"PYTHONPATH=/usr/lib/lab python3 -m lwaftr.ctl {LWAFTR_CONTROL} {command} {text}"
        )
        if not result.stdout:
            raise LabError(f"lwaftr {command}: {result.stderr}")
        return result.json()

    def configure(self, text, router=None):
        """Write a router's /etc/config/cpe-agent; the agent starts within a second.

        Given to Lab(files=...) instead, the agent is up before the lwAFTR can be. router: by
        default cpe.
        """
        router = router or self.cpe
        router.put("/etc/config/cpe-agent", text)
        router.check("sync")  # a power cut soon after must not take the configuration along
