"""OpenWrt in the router's place, with its genuine daemons.

It comes as an official x86-64 image, which boots with its own kernel, or as a root file system,
which boots with the kernel of the lab's guests. Either is only read: what is written goes to a copy
in the lab's folder. There eth0 is the LAN and eth1 the WAN, as in OpenWrt's defaults for such
machines.
"""

import os
import shlex
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from .guest import LabError, Machine
from .lab import Lab, disk, images

MEMORY = 256  # MiB; less than most routers of today have
BOOT_TIMEOUT = 300  # s; under emulation a first boot takes one to two minutes until all is up
ROOT_SPARE = 48 << 20  # bytes free on the copy of a root file system
BOOT_ARGS = (
    "console=ttyS0 quiet panic=-1 root=/dev/nvme0n1 rootfstype=ext4 rw rootwait "
    "init=/etc/preinit nr_cpus=1 nvme.io_queue_depth=8 mitigations=off audit=0 apparmor=0 "
    "no_timer_check net.ifnames=0"
)
# Of a root file system, opkg or apk does not know what modules the lab's kernel brings.
KERNEL_PACKAGES = ("kmod-ip6-tunnel", "kmod-nf-conntrack-netlink", "kmod-nft-connlimit")
SHARED = "/tmp/shared"  # where the lab's files are in the router
ADDRESS = "2001:db8:c0de::2"
GATEWAY = "2001:db8:c0de::1"


@dataclass(frozen=True)
class Router:
    """What takes the router's place. kind: "image" or "root"."""

    kind: str
    path: Path


def chosen(environment=os.environ):
    """Router that OPENWRT_IMAGE or OPENWRT_ROOT names, or None. Raises LabError."""
    image, root = environment.get("OPENWRT_IMAGE"), environment.get("OPENWRT_ROOT")
    if image and root:
        raise LabError("OPENWRT_IMAGE and OPENWRT_ROOT are both set: which one?")
    if image:
        if not Path(image).is_file():
            raise LabError(f"OPENWRT_IMAGE: there is no file {image}")
        return Router("image", Path(image).resolve())
    if root:
        if not Path(root, "sbin/procd").is_file():
            raise LabError(f"OPENWRT_ROOT: {root} is no OpenWrt: it has no /sbin/procd")
        return Router("root", Path(root).resolve())
    return None


def _tell_opkg(name):
    """Command that has opkg think that a package is installed."""
    fields = "Version: 1\nStatus: install ok installed\nArchitecture: all\n"
    return (
        f"echo 'Package: {name}\n{fields}' >> /usr/lib/opkg/status; "
        f": > /usr/lib/opkg/info/{name}.list"
    )


class OpenWrtLab(Lab):
    """A lab with OpenWrt in the router's place.

    router: a Router. files: paths of files that the router finds in SHARED. Other options are
    those of Lab.
    """

    def __init__(self, workdir, router, *, files=(), memory=MEMORY, **options):
        self.router = router
        self._shared = list(files)
        options.setdefault("boot_timeout", BOOT_TIMEOUT)
        super().__init__(workdir, cpe_memory=memory, **options)

    # ------------------------------------------------------------------ the machine

    def _cpe_machine(self, memory):
        cards = [*self.links["home"].card("a", 4, False), *self.links["access"].card("a", 3, False)]
        shared = disk(self.workdir / "cpe-code.img", "code", True)
        if self.router.kind == "root":
            root = disk(self._copy, "root", False, "nvme,serial=root,max_ioqpairs=1")
            kernel, boot_args = images.BUILD / "vmlinux", BOOT_ARGS
        else:
            root = ["-drive", f"if=virtio,format=qcow2,file={self._copy}"]
            kernel, boot_args = None, ""
            # An image fetches the packages that ours needs from where it is told to look.
            cards += ["-netdev", "user,id=feed", "-device", "virtio-net-pci,netdev=feed,romfile="]
        extra = [*root, *shared, *cards]
        return Machine(memory, extra, kernel, boot_args, "openwrt", self._timeout)

    @property
    def _copy(self):
        """The router's disk."""
        return self.workdir / ("openwrt.qcow2" if self.router.kind == "image" else "openwrt.ext4")

    @property
    def _shared_disk(self):
        """What the router calls the disk with the lab's files: the virtio disk that is not its
        own."""
        return "/dev/vdb" if self.router.kind == "image" else "/dev/vda"

    # ------------------------------------------------------------------ disks

    def _targets(self):
        return ("boot", "isp")

    def _make_router_disk(self):
        if self.router.kind == "image":
            self._unpack_image()
        else:
            self._copy_root()

    def _fill_code_disk(self, folder):
        super()._fill_code_disk(folder)
        for path in self._shared:
            shutil.copy(path, folder)

    def _unpack_image(self):
        image = self.router.path
        raw = image
        if image.suffix == ".gz":
            # zlib and not gzip, which stumbles over the metadata that OpenWrt puts at the end.
            raw = self.workdir / "openwrt.img"
            unpack = zlib.decompressobj(31)
            with open(image, "rb") as source, open(raw, "wb") as out:
                while not unpack.eof and (part := source.read(1 << 20)):
                    out.write(unpack.decompress(part))
        self._copy.unlink(missing_ok=True)
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(raw)]
        images.run([*command, str(self._copy)])

    def _copy_root(self):
        root = self.router.path
        size = images.used_bytes(root) * 11 // 10 + ROOT_SPARE >> 20 << 20
        images.make_ext4(root, self._copy, size, journal=True, label="rootfs")

    # ------------------------------------------------------------------ what one does with it

    def wait_ready(self):
        """Wait until all services were started, and the lab's files are there."""
        self.cpe.check("dmesg -n 1")
        self.cpe.wait_until("logread | grep -q 'init complete'", BOOT_TIMEOUT, pause=1)
        if self.router.kind == "root":
            self._register_modules()
        self.cpe.check(
            f"mkdir -p {SHARED}; mount | grep -q {SHARED} || "
            f"mount -t ext4 -o ro {self._shared_disk} {SHARED}"
        )

    def _register_modules(self):
        has_apk = self.has_apk()
        known = self.cpe.check("apk info" if has_apk else "opkg list-installed | cut -d' ' -f1")
        for name in KERNEL_PACKAGES:
            if name not in known.split():
                self.cpe.check(f"apk add --virtual {name}" if has_apk else _tell_opkg(name))

    def has_apk(self):
        """True for OpenWrt 25.12 and later, False where opkg installs packages."""
        return self.cpe.run("command -v apk").code == 0

    def wait_boot(self):
        """Wait for the end of a boot that has begun."""
        self.cpe.wait_boot()
        self.wait_ready()

    def set_up_network(self):
        """The lab's addresses on the WAN; OpenWrt's defaults suit the LAN already."""
        self.uci(
            "network.wan.proto=none",
            "network.wan6.proto=static",
            f"network.wan6.ip6addr={ADDRESS}/64",
            f"network.wan6.ip6gw={GATEWAY}",
        )
        self.cpe.check("uci commit network; reload_config", timeout=60)
        self.cpe.wait_until(f"ping6 -c 1 -W 1 {GATEWAY}", timeout=90)

    def uci(self, *settings):
        """`uci set` of each."""
        self.cpe.check("; ".join(f"uci set {shlex.quote(setting)}" for setting in settings))
