"""What is in the package, without installing it."""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import time

import pytest

from cpe_agent import status
from cpe_agent.backends import fw4
from tests.support import micropython

ROOT = pathlib.Path(__file__).resolve().parents[2]
SDK = ROOT / "openwrt-package/cpe-agent"
AGENT = "usr/lib/cpe-agent/"
# Measured 130 590 and 200 090 octets, and 9 % for what comes.
LARGEST, LARGEST_INSTALLED = 142300, 218100

PROGRAMS = {
    "etc/init.d/cpe-agent",
    "etc/uci-defaults/90-cpe-agent",
    "lib/netifd/proto/lw4o6.sh",
    "usr/lib/cpe-agent/hotplug",
    "usr/lib/cpe-agent/undo-cpe-agent",
    "usr/sbin/cpe-agent",
}
PLAIN = {
    "etc/odhcp6c.user.d/cpe-agent",
    "lib/upgrade/keep.d/cpe-agent",
    "usr/share/cpe-agent/fw4-srcnat.nft",
    "usr/share/cpe-agent/fw4-table.nft",
}


def modules():
    return {str(path.relative_to(ROOT)) for path in (ROOT / "cpe_agent").rglob("*.py")}


def unpack(files, target):
    for name, (mode, octets, _) in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)
        path.chmod(mode)


def test_the_package_holds_these_files_and_no_source(files):
    code = {AGENT + name[: -len("py")] + "mpy" for name in modules()}
    assert set(files) == PROGRAMS | PLAIN | code | {"etc/config/cpe-agent"}


def test_who_may_read_and_run_what(files):
    for name, (mode, _, _) in files.items():
        private = name == "etc/config/cpe-agent"
        wanted = 0o755 if name in PROGRAMS else 0o600 if private else 0o644
        assert mode & 0o7777 == wanted, name


def test_what_the_package_says_of_itself(control):
    fields = dict(
        line.split(": ", 1) for line in control["control"][1].decode().splitlines() if ": " in line
    )
    assert fields["Package"] == "cpe-agent"
    assert fields["Version"] == status.VERSION + "-r1"
    assert fields["Architecture"] == "all"
    assert control["conffiles"][1].decode().split() == ["/etc/config/cpe-agent"]


def test_the_version_is_one(builder):
    project = (ROOT / "pyproject.toml").read_text()
    makefile = (SDK / "Makefile").read_text()
    assert 'version = "%s"' % status.VERSION in project
    assert "PKG_RELEASE:=%s\n" % builder.RELEASE in makefile


def test_the_sdk_depends_on_the_same(control):
    (line,) = re.findall("^Depends: (.*)$", control["control"][1].decode(), re.MULTILINE)
    (wanted,) = re.findall("DEPENDS:=(.*)", (SDK / "Makefile").read_text())
    assert line.split(", ") == [word.lstrip("+") for word in wanted.split() if word[0] == "+"]


def test_the_bytecode_is_for_every_machine(files):
    for name, (_, octets, _) in files.items():
        if name.endswith(".mpy"):
            # 'M', version 6, no native code, small integers of 31 bits: docs of mpy files.
            assert octets[:4] == b"M\x06\x00\x1f", name
            assert str(ROOT).encode() not in octets, name


def test_the_installed_agent_runs(files, tmp_path):
    unpack(files, tmp_path)
    environment = dict(os.environ, MICROPYPATH=".frozen:%s" % (tmp_path / AGENT))
    command = [micropython.interpreter(), "-m", "cpe_agent"]
    done = subprocess.run(
        command + ["version"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == (status.VERSION + "\n", "")
    config = str(tmp_path / "etc/config/cpe-agent")
    done = subprocess.run(
        command + ["--config", config, "check"], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ("ipk", "apk"))
def test_two_builds_are_the_same_to_the_octet(builder, kind, tmp_path, monkeypatch):
    once = builder.build(kind, tmp_path / "once")
    before = os.umask(0o077)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        again = builder.build(kind, tmp_path / "again")
    finally:
        os.umask(before)
        monkeypatch.undo()
        time.tzset()
    assert again.name == once.name
    assert again.read_bytes() == once.read_bytes()


def test_the_apk_says_what_belongs_to_it(builder, files, tmp_path):
    # OpenWrt's scripts enable and stop by these lists what an .apk has brought.
    package = builder.build("apk", tmp_path)
    with tarfile.open(package) as archive:
        found = {entry.name for entry in archive if entry.isfile() and entry.name[0] != "."}
        listed = archive.extractfile("lib/apk/packages/cpe-agent.list").read().decode().split()
        info = archive.extractfile(".PKGINFO").read().decode().splitlines()
    lists = {"lib/apk/packages/cpe-agent." + kind for kind in ("list", "conffiles")}
    assert found == set(files) | lists
    assert set(listed) == {"/" + name for name in files}
    assert "pkgver = %s-r1" % status.VERSION in info and "arch = noarch" in info
    assert all(" = " in line for line in info)


def test_the_files_are_dated_by_source_date_epoch(builder, tmp_path, monkeypatch):
    from tests.package.conftest import members

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    package = builder.build("ipk", tmp_path)
    for part in ("data.tar.gz", "control.tar.gz"):
        assert {time for _, _, time in members(package, part).values()} == {1700000000}


def test_the_package_stays_small(package, files):
    assert package.stat().st_size <= LARGEST
    assert sum(len(octets) for _, octets, _ in files.values()) <= LARGEST_INSTALLED


def test_the_closed_firewall_is_the_agents_own(files):
    closed = fw4.fragments(None)
    assert files["usr/share/cpe-agent/" + fw4.SOURCE_NAT][1].decode() == closed.source_nat
    assert files["usr/share/cpe-agent/" + fw4.CHAINS][1].decode() == closed.chains


def scripts():
    shells = [SDK / "test.sh", *(SDK.parent / "scripts").iterdir()]
    shells += list((ROOT / "uci-defaults").iterdir())
    shells += [SDK / "files" / name for name in sorted(PROGRAMS)]
    shells.append(SDK / "files/etc/odhcp6c.user.d/cpe-agent")
    return sorted({path for path in shells if path.exists()})


@pytest.mark.parametrize("script", scripts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_finds_nothing(script):
    program = pathlib.Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, "-s", "dash", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
