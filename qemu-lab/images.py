#!/usr/bin/env python3
"""Build the lab's guest images from Debian packages, without root.

Everything comes out of one Debian suite (trixie: kernel 6.12, MicroPython 1.25, Python 3.13),
whatever Debian the host runs. apt is pointed at a private root (state, lists, cache), the mirror
is the one that the host's own apt uses, and packages are only unpacked (`dpkg-deb -x`), never
configured: a guest needs files, not a package database.

Targets (all of them by default):
  micropython  build/lab/micropython: the guests' MicroPython, runnable on the host
  boot         build/lab/vmlinux, the kernel; it needs no initramfs: NVMe and ext4 are built in
  cpe, isp     build/lab/cpe.img and build/lab/isp.img, read-only ext4 roots

A target whose inputs did not change is left alone. The inputs are this file, the files under
guest/ and the package lists; the versions that were used are in build/lab/<target>.stamp.
`--refresh` asks the mirror for newer packages.
"""

import argparse
import fcntl
import getpass
import hashlib
import json
import lzma
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = Path(os.environ.get("CPE_LAB_BUILD", HERE.parent / "build" / "lab"))
SUITE = "trixie"
ARCH = "amd64"
TRIPLET = "x86_64-linux-gnu"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KERNEL_META = "linux-image-cloud-amd64"

# Listed with their libraries instead of resolved by apt: the resolver would bring dpkg, debconf,
# systemd and Kerberos. check_libraries() fails the build when a name is missing here.
MICROPYTHON = [
    "libc6",
    "libffi8",
    "libmbedcrypto16",
    "libmbedtls21",
    "libmbedx509-7",
    "micropython",
]
# dash is the guests' shell because busybox's prefers its own applets (a small `ip`, `tar`, ...)
# to the programs in PATH, and because its line editor writes escape codes to the console.
COMMON = [
    "busybox-static",
    "dash",
    "nftables",
    "libnftables1",
    "libnftnl11",
    "libmnl0",
    "libjansson4",
    "libgmp10",
    "libedit2",
    "libbsd0",
    "libmd0",
    "libtinfo6",
    "libxtables12",
    "iproute2",
    "libelf1t64",
    "libbpf1",
    "libcap2",
    "zlib1g",
    "libzstd1",
    "libselinux1",
    "libpcre2-8-0",
    "conntrack",
    "libnetfilter-conntrack3",
    "libnfnetlink0",
]
PYTHON = [
    "python3.13-minimal",
    "libpython3.13-minimal",
    "libpython3.13-stdlib",
    "libexpat1",
    "libbz2-1.0",
    "liblzma5",
]
PACKAGES = {
    "micropython": MICROPYTHON,
    "boot": [],
    "cpe": MICROPYTHON + COMMON,
    "isp": MICROPYTHON + COMMON + PYTHON + ["miniupnpd", "miniupnpd-nftables"],
}
PROGRAMS = {
    "micropython": ["usr/bin/micropython"],
    "cpe": [
        "usr/bin/micropython",
        "usr/sbin/nft",
        "usr/bin/ip",
        "usr/sbin/tc",
        "usr/sbin/conntrack",
    ],
    "isp": [
        "usr/bin/micropython",
        "usr/sbin/nft",
        "usr/bin/ip",
        "usr/sbin/tc",
        "usr/sbin/conntrack",
        "usr/bin/python3.13",
        "usr/sbin/miniupnpd",
    ],
}

# Kernel modules that the guests get, as globs under kernel/; what they depend on comes along.
MODULES = [
    "drivers/net/virtio_net.ko*",
    "drivers/block/virtio_blk.ko*",
    "drivers/char/hw_random/virtio-rng.ko*",
    "drivers/net/tun.ko*",
    "drivers/net/veth.ko*",
    "drivers/net/dummy.ko*",
    "net/bridge/bridge.ko*",
    "net/bridge/br_netfilter.ko*",
    "net/8021q/8021q.ko*",
    "net/ipv4/ipip.ko*",
    "net/ipv4/ip_tunnel.ko*",
    "net/ipv6/ip6_tunnel.ko*",
    "net/ipv6/tunnel6.ko*",
    "net/ipv6/sit.ko*",
    "net/netfilter/nf_*.ko*",
    "net/netfilter/nft_*.ko*",
    "net/netfilter/nfnetlink*.ko*",
    "net/ipv4/netfilter/nf_*.ko*",
    "net/ipv4/netfilter/nft_*.ko*",
    "net/ipv6/netfilter/nf_*.ko*",
    "net/ipv6/netfilter/nft_*.ko*",
    "net/sched/sch_netem.ko*",
    "net/sched/sch_tbf.ko*",
    "net/sched/sch_ingress.ko*",
    "fs/overlayfs/overlay.ko*",
]

# Paths, relative to a guest's root, that no test looks at.
STRIP = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/lintian",
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/info",
    "usr/share/perl5",
    "usr/lib/systemd",
    "usr/share/applications",
    "usr/share/pixmaps",
    "usr/share/i18n",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/tmpfiles.d",
    "usr/share/iproute2/examples",
    "usr/lib/python3.13/test",
    "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/tkinter",
    "etc/init.d",
    "etc/systemd",
    "etc/default",
    "etc/logrotate.d",
    "usr/lib/mime",
    "usr/share/binfmts",
]


class BuildError(Exception):
    """Something that the person at the terminal has to mend; the message says what."""


def say(text):
    print(f"images: {text}", file=sys.stderr, flush=True)


def run(argv, **kwargs):
    """Run a program and return its standard output; its own words go into the error."""
    try:
        done = subprocess.run(argv, check=True, text=True, capture_output=True, **kwargs)
    except FileNotFoundError:
        raise BuildError(f"{argv[0]} is not installed (see host-packages.txt)") from None
    except subprocess.CalledProcessError as err:
        tail = (err.stderr or err.stdout or "").strip()[-2000:]
        raise BuildError(f"{shlex.join(map(str, argv[:4]))} ... failed:\n{tail}") from None
    return done.stdout


# ---------------------------------------------------------------------------- packages


def host_codename():
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    raise BuildError("/etc/os-release names no release: the lab needs a Debian host")


def mirror():
    """The URI of Debian's main archive, as this host's apt is set up to use it.

    All suites are served from the same archive, so the host's mirror has ours too.
    """
    codename = host_codename()
    listed = run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"]
    )
    for line in listed.splitlines():
        uri, _, release = line.rpartition(" ")
        if release == codename:
            return uri
    # indextargets shows downloaded indexes only; before the first update this still answers.
    mark = f"/dists/{codename}/"
    for line in run(["apt-get", "update", "--print-uris"]).splitlines():
        uri = line.split("'")[1] if line.startswith("'") else ""
        if mark in uri:
            return uri.split(mark)[0] + "/"
    raise BuildError(f"no apt source of this host serves Debian's {codename}")


class Apt:
    """A private apt: own lists, cache and (empty) status; no root, nothing of the host touched."""

    def __init__(self, root):
        self.root = root
        self.archives = root / "archives"
        self.options = []

    def prepare(self, refresh):
        for name in ("state/lists/partial", "cache/archives/partial", "etc/parts", "archives"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        sources = self.root / "etc" / "sources.list"
        sources.write_text(f"deb [arch={ARCH} signed-by={KEYRING}] {mirror()} {SUITE} main\n")
        settings = {
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": self.root / "etc" / "parts",
            "Dir::Etc::preferences": self.root / "etc" / "none",
            "Dir::Etc::preferencesparts": self.root / "etc" / "parts",
            "APT::Architecture": ARCH,
            "APT::Sandbox::User": getpass.getuser(),
            "Acquire::Retries": "3",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "1",
        }
        self.options = [f"-o{key}={value}" for key, value in settings.items()]
        if refresh or not (self.root / "updated").exists():
            self.update()

    def update(self):
        say(f"reading the package lists of {SUITE}")
        run(["apt-get", *self.options, "update"])
        (self.root / "updated").touch()

    def kernel_package(self):
        shown = run(["apt-cache", *self.options, "depends", KERNEL_META])
        for line in shown.splitlines():
            if "Depends: linux-image-" in line:
                return line.split()[-1]
        raise BuildError(f"{KERNEL_META} depends on no kernel image")

    def fetch(self, names, retry=True):
        """Return {package: path of its .deb}; what is in the cache is not fetched again."""
        uris = run(["apt-get", *self.options, "download", "--print-uris", *names])
        wanted = [line.split()[1] for line in uris.splitlines() if line.startswith("'")]
        missing = [name for name in wanted if not (self.archives / name).exists()]
        if missing:
            say(f"fetching {len(missing)} packages")
            short = [name.split("_")[0] for name in missing]
            try:
                run(["apt-get", *self.options, "download", *short], cwd=self.archives)
            except BuildError:
                if not retry:
                    raise
                # A point release took the versions that our lists name off the mirror.
                self.update()
                return self.fetch(names, retry=False)
        found = {name.split("_")[0]: self.archives / name for name in wanted}
        lost = [name for name, path in found.items() if not path.exists()]
        if lost or len(found) < len(set(names)):
            raise BuildError(f"the mirror did not deliver: {lost or names}")
        return found


def unpack(debs, root):
    """Unpack .deb files into a new merged-/usr root."""
    if root.exists():
        shutil.rmtree(root)
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for deb in debs:
        run(["dpkg-deb", "-x", deb, root])


def loader(root):
    """The root's own dynamic loader: runs its programs on a host with an older C library."""
    libs = root / "usr" / "lib" / TRIPLET
    return [str(libs / "ld-linux-x86-64.so.2"), "--library-path", str(libs)]


def check_libraries(root, programs):
    for program in programs:
        listed = run([*loader(root), "--list", str(root / program)])
        if "not found" in listed:
            raise BuildError(f"{program} lacks a library; add its package:\n{listed}")


# ---------------------------------------------------------------------------- kernel


def vmlinux(bzimage):
    """The ELF kernel inside a bzImage.

    QEMU starts it directly (PVH), which spares the guest unpacking it under emulation.
    """
    data = bzimage.read_bytes()
    setup = (data[0x1F1] + 1) * 512
    offset = setup + int.from_bytes(data[0x248:0x24C], "little")
    length = int.from_bytes(data[0x24C:0x250], "little")
    payload = data[offset : offset + length]
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        # The last four bytes are the unpacked size, which zstd takes for garbage.
        argv = ["zstd", "-dcq"]
        done = subprocess.run(argv, input=payload[:-4], capture_output=True, check=False)
        elf = done.stdout
    elif payload[:6] == b"\xfd7zXZ\x00":
        elf = lzma.LZMADecompressor().decompress(payload)
    else:
        raise BuildError(f"the kernel is packed in a way not known here: {payload[:6].hex()}")
    if elf[:4] != b"\x7fELF":
        raise BuildError("the kernel did not unpack to an ELF file; is zstd installed?")
    return elf


def modinfo(data):
    """The (key, value) pairs of a module's .modinfo section."""
    pairs = []
    for field in data.split(b"\0"):
        key, sep, value = field.partition(b"=")
        if sep and key in (b"depends", b"alias"):
            pairs.append((key.decode(), value.decode("ascii", "replace")))
    return pairs


def module_name(path):
    return path.name.split(".ko")[0].replace("-", "_")


class Modules:
    """The modules of one kernel package: which files, and what needs what."""

    def __init__(self, base):
        self.base = base
        self.paths = {module_name(path): path for path in (base / "kernel").rglob("*.ko*")}
        self.data = {}
        self.info = {}

    def load(self, name):
        if name not in self.data:
            raw = self.paths[name].read_bytes()
            self.data[name] = lzma.decompress(raw) if self.paths[name].suffix == ".xz" else raw
        return self.data[name]

    def fields(self, name):
        if name not in self.info:
            self.info[name] = modinfo(self.load(name))
        return self.info[name]

    def needs(self, name):
        for key, value in self.fields(name):
            if key == "depends":
                return [dep.replace("-", "_") for dep in value.split(",") if dep]
        return []

    def closure(self, names):
        """Names with everything they need, each after what it needs."""
        order = []
        for name in names:
            if name not in order:
                order += [dep for dep in self.closure(self.needs(name)) if dep not in order]
                order.append(name)
        return order

    def install(self, target):
        """Copy the guests' modules, unpacked, and write what busybox modprobe reads."""
        wanted = []
        for pattern in MODULES:
            wanted += [module_name(path) for path in sorted((self.base / "kernel").glob(pattern))]
        order = self.closure(wanted)
        where = {}
        for name in order:
            path = self.paths[name].relative_to(self.base)
            where[name] = str(path).removesuffix(".xz")
            (target / where[name]).parent.mkdir(parents=True, exist_ok=True)
            (target / where[name]).write_bytes(self.load(name))
        deps, aliases = [], []
        for name in order:
            # modprobe wants the nearest needed module first in the line, the deepest last.
            chain = [where[dep] for dep in reversed(self.closure([name])[:-1])]
            deps.append(f"{where[name]}: {' '.join(chain)}".rstrip() + "\n")
            aliases += [
                f"alias {value} {name}\n" for key, value in self.fields(name) if key == "alias"
            ]
        (target / "modules.dep").write_text("".join(deps))
        (target / "modules.alias").write_text("".join(aliases))
        (target / "modules.symbols").write_text("")


# ---------------------------------------------------------------------------- file systems


def used_bytes(root):
    """Bytes that a tree takes on an ext4 disk with 4 KiB blocks, inodes included."""
    total = 0
    for path in root.rglob("*"):
        size = 0 if path.is_symlink() else path.stat().st_size
        total += -(-size // 4096) * 4096 + 256
    return total


def make_ext4(root, image, size=None, block=4096, journal=False, label="lab"):
    """Write the tree `root` as an ext4 image of `size` bytes (default: as small as it gets)."""
    size = size or (used_bytes(root) * 11 // 10 + (3 << 20)) >> 20 << 20
    part = image.with_name(image.name + ".part")
    part.unlink(missing_ok=True)
    with open(part, "wb") as out:
        out.truncate(size)
    # Nothing is left for the guest to initialise later: such writes would look like ours.
    features = "^metadata_csum_seed" + ("" if journal else ",^has_journal")
    run(
        [
            "mke2fs",
            "-q",
            "-F",
            "-t",
            "ext4",
            "-b",
            str(block),
            "-m",
            "0",
            "-L",
            label,
            "-O",
            features,
            "-E",
            "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0",
            "-d",
            str(root),
            str(part),
        ],
        env={**os.environ, "PATH": tool_path()},
    )
    os.replace(part, image)


def tool_path():
    """PATH with the sbin folders, where Debian keeps mke2fs but not an ordinary user's PATH."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def busybox_links(root):
    """A link for each applet, where no package brings the real program."""
    for name in run([str(root / "usr/bin/busybox"), "--list"]).split():
        paths = [root / "usr" / folder / name for folder in ("bin", "sbin")]
        if not any(os.path.lexists(path) for path in paths):
            paths[0].symlink_to("busybox")


def overlay_files(name, root):
    """Copy guest/common and guest/<name> over the root; scripts become executable."""
    for source in (HERE / "guest" / "common", HERE / "guest" / name):
        for path in sorted(source.rglob("*")):
            if path.is_dir():
                continue
            target = root / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if path.read_bytes()[:2] == b"#!" else 0o644)


def compile_python(root, folder, inside):
    """Compile the Python files of `folder` with the guest's own interpreter.

    `inside` is the folder's path in the guest, for tracebacks. The result is never checked
    against the sources: under emulation even that costs.
    """
    env = {"PYTHONHOME": str(root / "usr"), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}
    run(
        [
            *loader(root),
            str(root / "usr/bin/python3.13"),
            "-m",
            "compileall",
            "-q",
            "-d",
            inside,
            "--invalidation-mode",
            "unchecked-hash",
            str(folder),
        ],
        env=env,
    )


# ---------------------------------------------------------------------------- targets


def build_micropython(apt):
    debs = apt.fetch(PACKAGES["micropython"])
    root = BUILD / "host-micropython"
    unpack(debs.values(), root)
    for name in ("usr/share", "etc", "usr/lib/systemd"):
        shutil.rmtree(root / name, ignore_errors=True)
    check_libraries(root, PROGRAMS["micropython"])
    # Relative to the script itself, so that a moved or copied build folder still works.
    libs = f"usr/lib/{TRIPLET}"
    wrapper = BUILD / "micropython"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'root=$(dirname "$(readlink -f "$0")")/{root.name}\n'
        f'exec "$root/{libs}/ld-linux-x86-64.so.2" --library-path "$root/{libs}" '
        '"$root/usr/bin/micropython" "$@"\n'
    )
    wrapper.chmod(0o755)
    return debs


def unpack_kernel(apt):
    """Return the kernel package's .deb and the folder it was unpacked to."""
    debs = apt.fetch([apt.kernel_package()])
    [deb] = debs.values()
    root = BUILD / "kernel"
    stamp = root / "from"
    if not stamp.exists() or stamp.read_text() != deb.name:
        unpack([deb], root)
        stamp.write_text(deb.name)
    return debs, root


def kernel_modules(root):
    [base] = (root / "usr" / "lib" / "modules").iterdir()
    return Modules(base)


def build_boot(apt):
    debs, kernel = unpack_kernel(apt)
    [image] = (kernel / "boot").glob("vmlinuz-*")
    (BUILD / "vmlinux").write_bytes(vmlinux(image))
    return debs


def build_guest(apt, name):
    kernel_deb, kernel = unpack_kernel(apt)
    debs = apt.fetch(PACKAGES[name])
    root = BUILD / f"{name}-root"
    unpack(debs.values(), root)
    for path in STRIP:
        shutil.rmtree(root / path, ignore_errors=True)
    check_libraries(root, PROGRAMS[name])
    modules = kernel_modules(kernel)
    modules.install(root / "usr" / "lib" / "modules" / modules.base.name)
    busybox_links(root)
    for folder in (
        "proc",
        "sys",
        "dev",
        "tmp",
        "run",
        "var",
        "root",
        "overlay",
        "mnt",
        "etc/config",
        "etc/cpe-agent",
        "usr/lib/cpe-agent",
        "usr/lib/lab",
    ):
        (root / folder).mkdir(parents=True, exist_ok=True)
    overlay_files(name, root)
    if name == "isp":
        (root / "usr/bin/python3").symlink_to("python3.13")
        compile_python(root, root / "usr/lib/python3.13", "/usr/lib/python3.13")
    make_ext4(root, BUILD / f"{name}.img", label=name)
    return kernel_deb | debs


TARGETS = {
    "micropython": build_micropython,
    "boot": build_boot,
    "cpe": lambda apt: build_guest(apt, "cpe"),
    "isp": lambda apt: build_guest(apt, "isp"),
}
PRODUCTS = {
    "micropython": ["micropython", "host-micropython/usr/bin/micropython"],
    "boot": ["vmlinux"],
    "cpe": ["cpe.img"],
    "isp": ["isp.img", "isp-root/usr/bin/python3.13"],
}


def input_hash(target):
    """A hash over what a target is made from, the packages' versions apart."""
    digest = hashlib.sha256(f"{target} {SUITE} {PACKAGES[target]}".encode())
    files = [Path(__file__).resolve()]
    sources = {"micropython": [], "boot": []}.get(target, ["common", target])
    for source in sources:
        top = HERE / "guest" / source
        files += sorted(path for path in [top, *top.rglob("*")] if path.is_file())
    for path in files:
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def up_to_date(target):
    try:
        stamp = json.loads((BUILD / f"{target}.stamp").read_text())
    except (OSError, ValueError):
        return False
    made = all((BUILD / name).exists() for name in PRODUCTS[target])
    return made and stamp.get("inputs") == input_hash(target)


def build(targets=tuple(TARGETS), refresh=False):
    """Build what is out of date; return the names of the targets that were built.

    Two builds at once take turns: the second finds the first one's work done.
    """
    if not refresh and all(up_to_date(name) for name in targets):
        return []
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_locked(
            [name for name in TARGETS if name in targets and (refresh or not up_to_date(name))],
            refresh,
        )


def build_locked(todo, refresh):
    apt = Apt(BUILD / "apt")
    apt.prepare(refresh)
    for name in todo:
        began = time.monotonic()
        debs = TARGETS[name](apt)
        stamp = {
            "inputs": input_hash(name),
            "packages": sorted(path.name for path in debs.values()),
        }
        (BUILD / f"{name}.stamp").write_text(json.dumps(stamp, indent=1) + "\n")
        say(f"{name} built in {time.monotonic() - began:.1f} s")
    return todo


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "target", nargs="*", metavar="TARGET", help=f"any of {', '.join(TARGETS)} (default: all)"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="read the package lists anew and rebuild"
    )
    args = parser.parse_args()
    unknown = set(args.target) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    try:
        built = build(args.target or tuple(TARGETS), args.refresh)
    except BuildError as err:
        say(str(err))
        return 1
    if not built:
        say("everything is up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
