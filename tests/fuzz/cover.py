"""Coverage-guided fuzzing of one target (needs atheris), or a replay of inputs.

    python -m tests.fuzz.cover codec|conversation|texts --minutes 10
    python -m tests.fuzz.cover conversation --replay build/fuzz/conversation/crash-...

Inputs that reach new code are collected in build/fuzz/TARGET/corpus. When the time is over, the
smallest set that reaches all of it replaces tests/fuzz/corpus/TARGET, which pytest replays.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import time

from tests.fuzz import targets

PROGRESS = 5  # s
# Relative to the repository: libFuzzer hands them to a shell unquoted.
WORK = pathlib.Path("build/fuzz")
KEPT = targets.CORPUS.relative_to(targets.ROOT)
LARGEST_CORPUS = 90000  # octets of one target's inputs that are kept
_STATUS = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+) corp: (\d+)/\S+.*?exec/s: (\d+)")
_EXECUTED = re.compile(r"stat::number_of_executed_units: (\d+)")


def libfuzzer(target, *arguments):
    """The fuzzer as a child process; what it says comes as lines on its stdout."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.libfuzzer", target, *map(str, arguments)],
        cwd=targets.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def fuzz(target, minutes, seed):
    """(exit code, executions, edges covered, last lines) after that time."""
    work = WORK / target
    (targets.ROOT / work / "corpus").mkdir(parents=True, exist_ok=True)
    child = libfuzzer(
        target,
        work / "corpus",
        KEPT / target,
        "-max_total_time=%d" % (minutes * 60),
        "-max_len=%d" % targets.LENGTHS[target],
        "-seed=%d" % seed,
        "-timeout=20",
        "-rss_limit_mb=1024",
        "-print_final_stats=1",
        "-artifact_prefix=%s/" % work,
    )
    executed = edges = 0
    tail = []
    told = begin = time.monotonic()
    for line in child.stdout:
        tail = [*tail[-39:], line.rstrip()]
        status, final = _STATUS.search(line), _EXECUTED.search(line)
        if final:
            executed = int(final.group(1))
        if status:
            executed, edges = int(status.group(1)), int(status.group(2))
            if time.monotonic() - told >= PROGRESS:
                told = time.monotonic()
                print(
                    "%5d s  %9d executions  %5s a second  %5d edges  %5s inputs"
                    % (told - begin, executed, status.group(5), edges, status.group(4)),
                    flush=True,
                )
    return child.wait(), executed, edges, tail


def keep(target):
    """Replace the kept inputs by the smallest set that reaches what all of them reach; how many
    of them are new."""
    kept = targets.CORPUS / target
    fresh = targets.ROOT / WORK / target / "smallest"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    places = [WORK / target / "smallest", KEPT / target, WORK / target / "corpus"]
    merge = libfuzzer(target, "-set_cover_merge=1", *places)
    said, _ = merge.communicate()
    found = {path.name: path.read_bytes() for path in fresh.iterdir()}
    if merge.returncode or not found:
        raise RuntimeError("the merge failed:\n" + said[-2000:])
    before = {path.name for path in kept.iterdir()}
    for name in before:
        (kept / name).unlink()
    room = LARGEST_CORPUS
    smallest_first = sorted(found, key=lambda name: (len(found[name]), name))
    for name in smallest_first[: targets.MOST[target]]:
        room -= len(found[name])
        if room >= 0:
            (kept / name).write_bytes(found[name])
    return len({path.name for path in kept.iterdir()} - before)


def replay(target, paths):
    """Run inputs without the fuzzer; a fault is raised as it is."""
    sys.path.insert(0, str(targets.ROOT / "qemu-lab"))
    run = targets.load(target)
    for path in paths:
        run(path.read_bytes())
        print("%s: no fault" % path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=sorted(targets.LENGTHS))
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--replay", nargs="+", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    if options.replay:
        replay(options.target, options.replay)
        return 0
    (targets.CORPUS / options.target).mkdir(parents=True, exist_ok=True)
    print("%s for %g minutes, seed %d" % (options.target, options.minutes, options.seed))
    code, executed, edges, tail = fuzz(options.target, options.minutes, options.seed)
    print("%s: %d executions, %d edges covered" % (options.target, executed, edges))
    if code:
        print("A FAULT (exit code %d):\n%s" % (code, "\n".join(tail)))
        return 1
    print("no fault; %d new inputs kept in %s" % (keep(options.target), "tests/fuzz/corpus"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
