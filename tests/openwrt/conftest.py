"""One booted OpenWrt for all tests, with the package installed; without one, tests are skipped.

The reason of a skip is told by test (pytest -rs): a test that did not run has not passed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cpelab.openwrt import OpenWrtLab, chosen

from tests.e2e.conftest import (  # noqa: F401  (a hook of pytest's)
    RUNNING,
    pytest_runtest_makereport,
)
from tests.openwrt.router import OpenWrtHome

ROOT = Path(__file__).resolve().parents[2]
WHY_NOT = (
    "no OpenWrt: neither OPENWRT_IMAGE (an official x86-64 image) nor OPENWRT_ROOT (a root file "
    "system with OpenWrt's daemons) is set; see docs/lab-openwrt.md"
)
PATIENCE = 900  # s; the first test's time is the boot's too


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(PATIENCE))


@pytest.fixture(scope="session")
def openwrt():
    """The Router that was chosen."""
    return chosen() or pytest.skip(WHY_NOT)


@pytest.fixture(scope="session")
def packages(openwrt, tmp_path_factory):
    """Paths of the package for opkg and for apk: CPE_AGENT_PACKAGE, or made of the working tree."""
    given = os.environ.get("CPE_AGENT_PACKAGE")
    if given:
        return [Path(given)]
    folder = tmp_path_factory.mktemp("package")
    for kind in ("ipk", "apk"):
        build = [sys.executable, ROOT / "openwrt-package" / "build.py", kind, folder]
        subprocess.run(build, check=True, cwd=ROOT)
    return [*folder.glob("*.ipk"), *folder.glob("*.apk")]


@pytest.fixture(scope="session")
def home(openwrt, packages, tmp_path_factory):
    """A home with an OpenWrt router; each test says by home.begin() what it starts from."""
    lab = OpenWrtLab(tmp_path_factory.mktemp("openwrt"), openwrt, files=packages)
    lab.start()
    RUNNING.append(lab)
    lab.wait_ready()
    lab.set_up_network()
    yield OpenWrtHome(lab, [path.name for path in packages])
    RUNNING.remove(lab)
    lab.stop()
