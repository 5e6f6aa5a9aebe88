#!/usr/bin/env python3
"""Run the tests on OpenWrt (make lab-openwrt): on what is given, else on an official image.

OPENWRT_IMAGE or OPENWRT_ROOT names what takes the router's place (docs/lab-openwrt.md). If neither
is set, the image of the release below is downloaded once. A checksum that openwrt.sha256 lists has
to match; for one that it does not list yet, what the release itself says is taken, and the line for
openwrt.sha256 is printed. Without a download the tests are reported as skipped.

Arguments go to pytest.
"""

import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from images import BUILD

HERE = Path(__file__).resolve().parent
RELEASE = "24.10.4"
FOLDER = f"https://downloads.openwrt.org/releases/{RELEASE}/targets/x86/64"
IMAGE = f"openwrt-{RELEASE}-x86-64-generic-ext4-combined.img.gz"
PINNED = HERE / "openwrt.sha256"
TIMEOUT = 60  # s without an octet


class DownloadError(Exception):
    """The image cannot be had, or is not what it should be."""


def checksum_of(listing, name):
    """What a listing as of sha256sum says of a file, or None."""
    for line in listing.splitlines():
        words = line.split()
        if len(words) == 2 and words[1].lstrip("*") == name:
            return words[0].lower()
    return None


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise DownloadError(f"{url}: {error}") from None


def download(folder):
    """Path of the image, downloaded to a folder if it is not there yet. Raises DownloadError."""
    path = folder / IMAGE
    listing = PINNED.read_text() if PINNED.exists() else ""
    wanted = checksum_of(listing, IMAGE)
    if wanted is None:
        wanted = checksum_of(get(f"{FOLDER}/sha256sums").decode("ascii", "replace"), IMAGE)
        if wanted is None:
            raise DownloadError(f"{FOLDER}/sha256sums does not list {IMAGE}")
        print(f"not pinned yet; the line for {PINNED.name}: {wanted} *{IMAGE}")
    content = path.read_bytes() if path.exists() else get(f"{FOLDER}/{IMAGE}")
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise DownloadError(f"{IMAGE} has the checksum {found}, not {wanted}")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def main(words):
    environment = dict(os.environ)
    if not (environment.get("OPENWRT_IMAGE") or environment.get("OPENWRT_ROOT")):
        try:
            environment["OPENWRT_IMAGE"] = str(download(BUILD / "openwrt"))
        except DownloadError as error:
            print(f"no OpenWrt image: {error}", file=sys.stderr)
    tests = [sys.executable, "-m", "pytest", "-rs", "--no-fold-skipped", "tests/openwrt", *words]
    return subprocess.run(tests, cwd=HERE.parent, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
