"""make bench: what the agent costs, on each runtime, next to the bare interpreter in the same run.

On this machine (network namespace, lab server on loopback): start to first request, memory, CPU.
In the emulated router (QEMU): the same with the kernel, and grant to NAT, source and bytecode.
Figures are medians; absolute ones are this machine's, so compare the ratios.
build/bench/result.json has every sample.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "qemu-lab")]

from cpe_agent import control  # noqa: E402  (needs the path above)
from tests.support import micropython  # noqa: E402

SERVER = "2001:db8:1::1"
CONFIG = "config softwire 'bench'\n\toption aftr '%s'\nconfig agent\n\toption backend 'none'\n"
IDLE = 5  # s; how long CPU time is watched when nothing happens
HERTZ = os.sysconf("SC_CLK_TCK")


def runtimes(folder):
    """{name: (command of the bare interpreter, environment)} of what is compared."""
    mpy = folder / "bytecode"
    micropython.compile_tree(["cpe_agent"], mpy)
    interpreter = [micropython.interpreter()]
    return {
        "MicroPython, source": (interpreter, {"MICROPYPATH": str(ROOT)}),
        "MicroPython, bytecode": (interpreter, {"MICROPYPATH": str(mpy)}),
        "CPython %s" % platform.python_version(): (
            [sys.executable, "-S"],
            {"PYTHONPATH": str(ROOT)},
        ),
    }


# In the namespace


def inside(samples):
    """Measure all runtimes, in turn; print the samples as JSON. Runs in its own namespace."""
    for command in (["link", "set", "lo", "up"], ["addr", "add", SERVER, "dev", "lo"]):
        subprocess.run(["ip", *command], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config").write_text(CONFIG % SERVER)
        server = _start_server()
        try:
            table = runtimes(folder)
            found = {runtime: [] for runtime in table}
            for number in range(samples):
                for runtime, (interpreter, environment) in table.items():
                    place = folder / ("%d %s" % (number, runtime)).replace(" ", "-")
                    found[runtime].append(_measure(interpreter, environment, folder, place))
        finally:
            server.terminate()
            server.wait()
    print(json.dumps(found))


def _start_server():
    environment = dict(os.environ, PYTHONPATH="%s:%s" % (ROOT, ROOT / "qemu-lab"))
    command = [sys.executable, "-m", "lwaftr", "--pcp-only", "--listen", SERVER]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    server.stdout.readline()
    return server


def _measure(interpreter, environment, folder, place):
    """One life of the agent: figures of it, and of the bare interpreter doing nothing."""
    environment = dict(os.environ, **environment)
    began = time.monotonic()
    subprocess.run([*interpreter, "-c", "pass"], env=environment, check=True)
    bare_start = (time.monotonic() - began) * 1000
    bare = _idle_memory([*interpreter, "-c", "import time; time.sleep(60)"], environment)
    options = ["--config", str(folder / "config"), "--state-dir", str(place / "state")]
    options += ["--run-dir", str(place / "run")]
    command = [*interpreter, "-m", "cpe_agent", *options]
    agent = subprocess.Popen([*command, "run"], env=environment, stderr=subprocess.DEVNULL)
    try:
        found = _wait_for(place / "run/control", lambda found: "address" in found)
        start_cpu = _cpu_ms(agent.pid)
        time.sleep(IDLE)
        rss, private = _memory(agent.pid)
        idle_cpu = _cpu_ms(agent.pid) - start_cpu
        _release(place / "run/control")  # the next life has another nonce, and would be refused
    finally:
        agent.kill()
        agent.wait()
    return {
        "bare_start_ms": bare_start,
        "bare_rss_kb": bare[0],
        "bare_private_kb": bare[1],
        "first_request_ms": found["timings"]["first_request_ms"],
        "rss_kb": rss,
        "private_kb": private,
        "cpu_to_grant_ms": start_cpu,
        "cpu_idle_ms_per_s": idle_cpu / IDLE,
    }


def _idle_memory(command, environment):
    process = subprocess.Popen(command, env=environment)
    try:
        time.sleep(0.5)
        return _memory(process.pid)
    finally:
        process.kill()
        process.wait()


def _wait_for(socket, good):
    """The agent's status as soon as it is good."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            found = control.ask(str(socket), "status")
            if good(found):
                return found
        except control.NotRunning:
            pass
        time.sleep(0.05)
    raise SystemExit("bench: the agent did not get there within 20 s")


def _release(socket):
    control.ask(str(socket), "release")
    _wait_for(socket, lambda found: found["state"] == "released")


def _memory(pid):
    """(resident, private) kB."""
    fields = dict(
        line.split(":") for line in Path("/proc/%d/smaps_rollup" % pid).read_text().splitlines()[1:]
    )
    numbers = {name: int(text.split()[0]) for name, text in fields.items()}
    return numbers["Rss"], numbers["Private_Clean"] + numbers["Private_Dirty"]


def _cpu_ms(pid):
    fields = Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / HERTZ


# In the emulated router


def in_router(samples, folder, console):
    """{form: samples} with the kernel's part: softwire and NAT by the linux backend."""
    from cpelab import Lab

    mpy = folder / "bytecode"
    micropython.compile_tree(["cpe_agent"], mpy)
    forms = {"MicroPython, source": ROOT / "cpe_agent", "MicroPython, bytecode": mpy / "cpe_agent"}
    config = "config softwire 'wan4'\n\toption aftr '2001:db8:ffff::1'\n"
    found = {}
    for form, agent in forms.items():
        console.print("emulated router: %s ..." % form)
        with Lab(folder / form.replace(", ", "-"), files={}, agent=agent) as lab:
            lab.start_lwaftr()
            lab.cpe.put("/tmp/config", config)
            found[form] = [_router_life(lab) for _ in range(samples)]
    return found


def _router_life(lab):
    cpe = lab.cpe
    bare = cpe.check(
        "a=$(cut -d' ' -f1 /proc/uptime); for i in 1 2 3 4 5 6 7 8 9 10; do "
        "micropython -c pass; done; echo $a $(cut -d' ' -f1 /proc/uptime)"
    ).split()
    cpe.check("cpe-agent --config /tmp/config run >/tmp/bench.log 2>&1 & echo $! >/tmp/bench.pid")
    cpe.wait_until("cpe-agent status --json >/tmp/bench.json", timeout=40)
    time.sleep(2)
    timings = json.loads(cpe.check("cpe-agent status --json"))["timings"]
    memory = cpe.check("cat /proc/$(cat /tmp/bench.pid)/smaps_rollup").splitlines()[1:]
    numbers = {line.split(":")[0]: int(line.split()[1]) for line in memory}
    cpe.check("cpe-agent release && kill $(cat /tmp/bench.pid)", timeout=60)
    cpe.wait_until("! kill -0 $(cat /tmp/bench.pid)")
    return {
        "bare_start_ms": (float(bare[1]) - float(bare[0])) * 100,
        "first_request_ms": timings["first_request_ms"],
        "response_to_nat_ms": timings["response_to_nat_ms"],
        "rss_kb": numbers["Rss"],
        "private_kb": numbers["Private_Clean"] + numbers["Private_Dirty"],
    }


# Telling


def show(console, title, found):
    """A table of medians, and of what is given as ratio to the bare interpreter."""
    names = list(next(iter(found.values()))[0])
    table = Table(title=title)
    table.add_column("median")
    for runtime in found:
        table.add_column(runtime, justify="right")
    for name in names:
        row = [statistics.median(sample[name] for sample in found[runtime]) for runtime in found]
        table.add_row(name, *["%.4g" % value for value in row])
    pairs = ("first_request_ms", "bare_start_ms"), ("private_kb", "bare_private_kb")
    for name, bare in pairs:
        if bare in names:
            ratios = [
                statistics.median(sample[name] / max(sample[bare], 1) for sample in found[runtime])
                for runtime in found
            ]
            table.add_row("%s / %s" % (name, bare), *["%.2f" % ratio for ratio in ratios])
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=5, help="lives of the agent per runtime")
    parser.add_argument("--no-router", action="store_true", help="leave out the emulated router")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        inside(arguments.samples)
        return
    console = Console()
    console.print("measuring on this machine (%d samples each) ..." % arguments.samples)
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, __file__]
    command += ["--inside", "--samples", str(arguments.samples)]
    here = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    show(console, "This machine, loopback, no backend", here)
    result = {"here": here}
    if not arguments.no_router:
        with tempfile.TemporaryDirectory() as name:
            result["router"] = in_router(arguments.samples, Path(name), console)
        show(console, "Emulated router (TCG), linux backend", result["router"])
    out = ROOT / "build/bench/result.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    console.print("every sample: %s" % out.relative_to(ROOT))


if __name__ == "__main__":
    main()
