"""Every write to the router's flash disk, and the disk as it was after each.

QEMU's blklogwrites driver keeps the log, in the format of Linux's dm-log-writes. All numbers are
little-endian; a log sector has the size that the superblock gives:

    sector 0        magic u64 0x6a736677736872, version u64 1, entries u64, sector size u32
    then, per entry, one sector: first disk sector u64, sectors u64, flags u64, length u64
                    and the data, as many sectors as the entry says, if it is a plain write
    flags           1 flush, 2 FUA, 4 discard, 8 mark

Disk sectors are counted in the log's sector size too. The order is that in which the guest's
writes reached the device; a power cut leaves a prefix of it (or, between two flushes, some
subset, which these images do not play).

    for step in replay(base, log, work):    # work is rewritten for every step
        with inspected(work) as disk: disk.read("/cpe-agent/state")
"""

import contextlib
import os
import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
SUPER = struct.Struct("<QQQL")
ENTRY = struct.Struct("<QQQQ")


@dataclass(frozen=True)
class Write:
    """One entry of the log; offset and size in bytes, data empty for flush and discard."""

    number: int
    offset: int
    size: int
    flags: int
    data: bytes

    @property
    def is_flush(self):
        return bool(self.flags & FLUSH)


def base_path(log):
    return log.with_name(log.name + ".base")


def begin(flash, log):
    """Empty the log and keep the image as it is before the first write."""
    log.write_bytes(b"")
    shutil.copyfile(flash, base_path(log))


def logged_disk(flash, log):
    """QEMU's arguments for a flash disk whose writes go to the log, too."""
    return [
        "-blockdev",
        f"driver=file,node-name=flash-file,filename={flash}",
        "-blockdev",
        "driver=raw,node-name=flash-raw,file=flash-file",
        "-blockdev",
        f"driver=file,node-name=flash-log,filename={log}",
        "-blockdev",
        "driver=blklogwrites,node-name=flash,file=flash-raw,log=flash-log,"
        "log-super-update-interval=1",
        "-device",
        "virtio-blk-pci,drive=flash",
    ]


def entries(log):
    """The writes in a log, also while QEMU still adds to it."""
    with open(log, "rb") as source:
        head = source.read(SUPER.size)
        if len(head) < SUPER.size:
            return
        magic, version, count, sector = SUPER.unpack(head)
        if (magic, version) != (MAGIC, 1):
            raise ValueError(f"{log} is no dm-log-writes log")
        at = sector
        for number in range(count):
            source.seek(at)
            first, sectors, flags, _ = ENTRY.unpack(source.read(ENTRY.size))
            at += sector
            data = b""
            if not flags & DISCARD and sectors:
                source.seek(at)
                data = source.read(sectors * sector)
                at += len(data)
            yield Write(number, first * sector, sectors * sector, flags, data)


def replay(base, log, work):
    """Make `work` the disk as it was before the first write and after each; yield the Write.

    The first yield is None: the disk before any write. Discards become zeroes, as on a disk
    that reads zeroes there. Take a copy (or inspected()) to look at it: the file goes on to be
    used.
    """
    shutil.copyfile(base, work)
    yield None
    with open(work, "r+b", buffering=0) as disk:
        for write in entries(log):
            if write.size:
                disk.seek(write.offset)
                disk.write(write.data if write.data else bytes(write.size))
            yield write


class Inspected:
    """An ext4 image, its journal replayed, as a mount after the power cut would find it."""

    def __init__(self, path, fsck_code):
        self.path = path
        self.fsck_code = fsck_code  # of e2fsck -fy: 0 clean, 1 repaired, 4 and more broken

    def debugfs(self, request):
        done = _run(["debugfs", "-R", request, str(self.path)])
        return done.stdout

    def names(self, folder):
        """The names in a folder, without . and .."""
        lines = self.debugfs(f"ls -p {folder}").decode().splitlines()
        found = [line.split("/")[5] for line in lines if line.startswith("/")]
        return sorted(name for name in found if name not in ("", ".", ".."))

    def read(self, path):
        """A file's bytes, or None if there is no such file."""
        with tempfile.TemporaryDirectory(prefix="cpelab-") as folder:
            copy = Path(folder, "file")
            self.debugfs(f"dump {path} {copy}")
            return copy.read_bytes() if copy.exists() else None


@contextlib.contextmanager
def inspected(image):
    """Repair a copy of an image (that replays its journal) and look into it."""
    with tempfile.TemporaryDirectory(prefix="cpelab-") as folder:
        copy = Path(folder, "disk")
        shutil.copyfile(image, copy)
        code = _run(["e2fsck", "-fy", str(copy)]).returncode
        yield Inspected(copy, code)


def _run(argv):
    # Debian keeps these in sbin, which an ordinary user's PATH does not have.
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return subprocess.run(argv, capture_output=True, check=False, env={**os.environ, "PATH": path})
