#!/usr/bin/env python3
"""The whole story in two QEMU machines: grant, traffic, power cut, loss at the lwAFTR, renewal,
release. Writes result.json, report.html and the captures; exit code 0 if all went as it must.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
import images  # noqa: E402  (scripts beside this one, not installed modules)
import report  # noqa: E402
from cpelab import Lab, LabError  # noqa: E402
from demo_story import Story, Unexpected, clear, set_text  # noqa: E402
from demo_terminal import Terminal  # noqa: E402

OUT = HERE.parent / "build" / "demo"
PICTURE = """\
cpe-agent: a home router gets its port set by PCP and lives inside it

  LAN host ─── router: NAT inside the set ═══ IPv4 in IPv6 ═══ lwAFTR ─── IPv4 Internet
                      └─ cpe-agent ── PCP MAP + PORT_SET ──┘
"""


class Failed(Exception):
    """A step failed, and the terminal has said so."""


def build_images(terminal):
    """Make what the guests boot from, if it is not there; no part of the story and its time."""
    needed = [name for name in ("boot", "cpe", "isp") if not images.up_to_date(name)]
    if not needed:
        return
    try:
        with terminal.step("first", "The guests' disks, from Debian packages"):
            images.build(needed)
    except images.BuildError as error:
        terminal.failure("the guests' disks", "to be built", str(error), "")
        raise Failed("disks") from error


def run_step(terminal, story, steps, number, title, action):
    """Run one step and note its times; Failed if it does not do what it must."""
    began = story.clock()
    noted = {"title": title, "at": round(began, 3), "details": []}
    steps.append(noted)
    try:
        with terminal.step(f"{number}/{len(story.steps)}", title) as step:
            noted["details"] = step.details
            action(step)
    except Unexpected as error:
        terminal.failure(error.what, error.expected, error.seen, error.tail)
        raise Failed(title) from error
    except (LabError, images.BuildError) as error:
        text, _, tail = str(error).partition("\n")
        terminal.failure("the lab", "to work", text, tail)
        raise Failed(title) from error
    finally:
        noted["seconds"] = round(story.clock() - began, 3)


def tell(terminal, story, steps):
    """All steps in order. What the lab says of itself is not part of the story."""
    with contextlib.redirect_stderr(io.StringIO()):
        for number, (title, action) in enumerate(story.steps, 1):
            run_step(terminal, story, steps, number, title, action)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def figures(result):
    """What the last lines on the terminal say."""
    return [
        ("port set", set_text(result["granted"])),
        ("after the power cut", "the same" if result["same_after_power_cut"] else "another"),
        ("after the lwAFTR's loss", "the same" if result["same_after_lwaftr_loss"] else "another"),
        (
            "packets inside / outside",
            f"{result['packets_inside_set']} / {result['packets_outside_set']}",
        ),
        (
            "first request, NAT",
            f"{result['first_request_ms']} ms after start, "
            f"{result['response_to_nat_ms']} ms after the response",
        ),
        ("agent's memory", f"{result['agent_rss_kb']} kB, {result['agent_private_kb']} private"),
        ("flash writes per renewal", f"{result['flash_writes_per_renewal']:g}"),
        ("runtime", result["runtime"]),
    ]


def play(terminal, folder):
    """Tell the story and write what came of it; the exit code."""
    clear(folder)
    try:
        build_images(terminal)
    except Failed:
        return 1
    began = time.monotonic()
    started = time.time()
    lab = Lab(folder)
    story, steps = Story(lab, lambda: time.monotonic() - began), []
    failed, record = None, None
    try:
        tell(terminal, story, steps)
        record = story.record()
    except Failed as error:
        failed = str(error)
    finally:
        lab.stop()
    result = {
        "ok": failed is None,
        **story.result,
        "steps": [{key: one[key] for key in ("title", "seconds")} for one in steps],
        "total_s": round(story.clock(), 2),
    }
    if failed:
        result["failed_step"] = failed
    write_json(folder / "result.json", result)
    if failed:
        terminal.line(f"captures and console transcripts: {show(folder)}")
        return 1
    record.update(result=result, steps=steps, started=round(started))
    write_json(folder / "story.json", record)
    (folder / "report.html").write_text(report.render(record))
    terminal.line()
    terminal.figures(figures(result))
    terminal.line()
    terminal.line(
        f"all done in {result['total_s']:.0f} s; see {show(folder / 'report.html')}, "
        f"{show(folder / 'result.json')} and {show(folder)}/*.pcap"
    )
    return 0


def show(path):
    """A path as short as it can be."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        help="folder for results and captures (default: %(default)s)",
    )
    args = parser.parse_args()
    terminal = Terminal()
    terminal.line(PICTURE)
    if os.environ.pop("OPENWRT_IMAGE", None):
        terminal.line(
            "OPENWRT_IMAGE is set, but this story is told with the lab's own router; "
            "qemu-lab/lab.py starts an OpenWrt one.\n"
        )
    try:
        return play(terminal, args.out.resolve())
    except KeyboardInterrupt:
        terminal.line("interrupted", "red")
        return 130


if __name__ == "__main__":
    sys.exit(main())
