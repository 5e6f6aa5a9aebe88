#!/usr/bin/env python3
"""Run the tests on OpenWrt (make lab-openwrt): on what is given, else on an official image.

OPENWRT_IMAGE or OPENWRT_ROOT names what takes the router's place (docs/lab-openwrt.md). If neither
is set, the image of the release below is downloaded once. Its checksum has to be the one in the
release's list, and that list has to be the one that is pinned here. Without a download the tests
are reported as skipped.

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
RELEASE = "24.10.8"
FOLDER = f"https://downloads.openwrt.org/releases/{RELEASE}/targets/x86/64"
IMAGE = f"openwrt-{RELEASE}-x86-64-generic-ext4-combined.img.gz"
# SHA-256 of the release's list of checksums; the packagers of nix-openwrt-imagebuilder have noted
# the same one.
LIST_CHECKSUM = "5c1d5d6a7fc1acd34fd5ed8014cc28039b122569a87161889a1fa23b03a03df8"
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
    listing = get(f"{FOLDER}/sha256sums")
    check("sha256sums", listing, LIST_CHECKSUM)
    wanted = checksum_of(listing.decode("ascii", "replace"), IMAGE)
    if wanted is None:
        raise DownloadError(f"{FOLDER}/sha256sums does not list {IMAGE}")
    content = path.read_bytes() if path.exists() else get(f"{FOLDER}/{IMAGE}")
    check(IMAGE, content, wanted)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def check(name, content, wanted):
    """Raises DownloadError if a file is not what it should be."""
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise DownloadError(f"{name} has the checksum {found}, not {wanted}")


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
