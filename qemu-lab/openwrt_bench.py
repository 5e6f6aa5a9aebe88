#!/usr/bin/env python3
"""What the agent costs an idle OpenWrt router (make bench-openwrt), next to others in the same run.

openwrt_bench.py PACKAGE [SECONDS]: sizes, then private memory and CPU time of the agent with a
line that is up, of odhcp6c, and of a MicroPython that only sleeps, over ten minutes by default.
odhcp6c finds no server in this lab, and asks in vain meanwhile. Times are an emulated machine's:
compare them within a run only.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from cpelab.openwrt import OpenWrtLab, chosen

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from tests.openwrt.router import OpenWrtHome  # noqa: E402  (found by the path set above)

IDLE = 600  # s
TICKS = 100  # a second, of the CPU time in /proc
ODHCP6C = "odhcp6c -P 0 -s /bin/true eth1"
SLEEPER = "micropython -c 'import time; time.sleep(100000)'"


def private(router, pid):
    """Octets of memory that only this process has, or None where the kernel does not tell."""
    found = router.run(
        f"awk '/^Private/ {{ sum += $2 }} END {{ print sum }}' /proc/{pid}/smaps"
    ).stdout.strip()
    return int(found) * 1024 if found else None


def cpu(router, pid):
    """Milliseconds of CPU time so far, with its children's that have ended."""
    words = router.check(f"cat /proc/{pid}/stat").rsplit(")", 1)[1].split()
    return sum(int(word) for word in words[11:15]) * 1000 // TICKS


def start(router, command):
    router.check(f"({command}) > /dev/null 2>&1 < /dev/null & echo $! > /tmp/lab-bench.pid")
    time.sleep(3)
    outer = router.check("cat /tmp/lab-bench.pid")
    inner = router.run(f"pgrep -P {outer}").stdout.split()
    return int(inner[0]) if inner else int(outer)


def measure(home, seconds):
    """Lines of the table: name, octets of private memory, ms of CPU time."""
    router = home.lab.cpe
    processes = {
        "cpe-agent": home.agent(),
        "odhcp6c": start(router, ODHCP6C),
        "MicroPython, asleep": start(router, SLEEPER),
    }
    home.wait_up()
    before = {name: cpu(router, pid) for name, pid in processes.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    print(f"idle for {took:.0f} s; renewals: {home.status()['counts']['renewals']}")
    return [
        (name, private(router, pid), cpu(router, pid) - before[name])
        for name, pid in processes.items()
    ]


def sizes(home, package):
    router = home.lab.cpe
    print(f"package: {package.stat().st_size} octets")
    for name in ("/usr/sbin/odhcp6c", "/usr/bin/micropython"):
        print(f"{name}: {router.run(f'wc -c < {name}').stdout.strip()} octets")
    installed = router.check("find /usr/lib/cpe-agent -type f -exec cat {} + | wc -c")
    print(f"/usr/lib/cpe-agent: {installed} octets")


def main(words):
    package, seconds = Path(words[0]), int(words[1]) if len(words) > 1 else IDLE
    router = chosen()
    if router is None:
        sys.exit("neither OPENWRT_IMAGE nor OPENWRT_ROOT is set; see docs/lab-openwrt.md")
    with TemporaryDirectory() as folder, OpenWrtLab(folder, router, files=[package]) as lab:
        lab.wait_ready()
        lab.set_up_network()
        home = OpenWrtHome(lab, [package.name])
        home.begin()
        sizes(home, package)
        for name, octets, milliseconds in measure(home, seconds):
            memory = "not told" if octets is None else f"{octets // 1024} KiB"
            print(f"{name}: private memory {memory}, CPU time {milliseconds} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
