"""The package, built once; what it holds; and a root file system of OpenWrt to install it in."""

import importlib.util
import io
import os
import pathlib
import shutil
import subprocess
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _builder():
    spec = importlib.util.spec_from_file_location(
        "build_package", ROOT / "openwrt-package/build.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def builder():
    return _builder()


@pytest.fixture(scope="session")
def package(builder, tmp_path_factory):
    """Path of the .ipk."""
    return builder.build("ipk", tmp_path_factory.mktemp("package"))


def members(package, name):
    """{path: (mode, octets, time)} of the files in a part of an .ipk."""
    with tarfile.open(package) as outer:
        part = outer.extractfile("./" + name).read()
    with tarfile.open(fileobj=io.BytesIO(part)) as inner:
        return {
            entry.name[2:]: (entry.mode, inner.extractfile(entry).read(), entry.mtime)
            for entry in inner
            if entry.isfile()
        }


@pytest.fixture(scope="session")
def files(package):
    return members(package, "data.tar.gz")


@pytest.fixture(scope="session")
def control(package):
    return members(package, "control.tar.gz")


class Router:
    """A copy of OPENWRT_ROOT that commands run in, without its daemons."""

    def __init__(self, source, target):
        self.root = target
        shutil.copytree(source, target, symlinks=True)
        for folder in ("tmp/run", "tmp/lock", "tmp/.uci"):
            (target / folder).mkdir(parents=True, exist_ok=True)
        null = target / "dev/null"
        null.unlink(missing_ok=True)
        os.mknod(null, 0o20666, os.makedev(1, 3))

    def run(self, script, **variables):
        """(exit code, output) of a shell script inside."""
        environment = dict(variables, PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/")
        done = subprocess.run(
            ["chroot", str(self.root), "/bin/sh", "-c", script],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    def get(self, script, **variables):
        """Output of a script that succeeds."""
        code, output = self.run(script, **variables)
        assert code == 0, output
        return output

    def say_installed(self, *packages):
        """Have opkg take packages for installed that this root was made without."""
        database = self.root / "usr/lib/opkg"
        status = (database / "status").read_text()
        for name in packages:
            if "\nPackage: %s\n" % name not in "\n" + status:
                lines = (
                    "Package: %s\nVersion: 1\nArchitecture: all\nStatus: install ok installed\n\n"
                    % name
                )
                status += lines
                (database / "info" / (name + ".list")).touch()
        (database / "status").write_text(status)

    def write(self, path, text):
        """Make a program or file inside."""
        file = self.root / path.lstrip("/")
        file.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)


@pytest.fixture
def router(tmp_path):
    source = os.environ.get("OPENWRT_ROOT")
    if not source:
        pytest.skip("no OpenWrt: set OPENWRT_ROOT to a root file system of it")
    try:
        yield Router(source, tmp_path / "router")
    except PermissionError:
        pytest.skip("chroot and device nodes need root")
    finally:
        shutil.rmtree(tmp_path / "router", ignore_errors=True)
