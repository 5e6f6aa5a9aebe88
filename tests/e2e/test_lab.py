"""The lab itself: what other end-to-end tests take for granted."""

import gzip
import hashlib
import os
import statistics
import struct
import subprocess
import time

import images
import pytest
from cpelab import CommandFailed, Lab, LabError, openwrt, writelog
from cpelab.openwrt import OpenWrtLab

FLASH_FILES = """
import os
for name in ("one", "two", "three"):
    with open("/etc/cpe-agent/new", "w") as out:
        out.write(name * 100)
        out.flush()
    os.rename("/etc/cpe-agent/new", "/etc/cpe-agent/state")
    os.system("sync")
"""

RULES = """
table inet lab {
    chain post {
        type nat hook postrouting priority srcnat;
        oifname "ds0" meta l4proto { tcp, udp, icmp } snat ip to 192.0.2.1:1024-2047
        oifname "ds0" snat ip to jhash ip saddr . udp sport mod 2 map { 0: 192.0.2.1, 1: 192.0.2.2 }
    }
    chain forward {
        type filter hook forward priority filter;
        oifname "ds0" tcp flags syn tcp option maxseg size set rt mtu
        iifname "ds0" ct state invalid counter drop
        iifname "ds0" fib daddr type local limit rate 5/second log prefix "lab" counter accept
        iifname "ds0" reject with icmpx admin-prohibited
    }
}
"""


def test_both_guests_boot_in_parallel(lab):
    print({guest.name: round(guest.boot_seconds, 1) for guest in lab.guests})
    assert all(0 < guest.boot_seconds < 60 for guest in lab.guests)


def test_a_command_is_quick(lab):
    times = []
    for _ in range(9):
        began = time.monotonic()
        assert lab.cpe.run("true").code == 0
        times.append(time.monotonic() - began)
    print(f"one command: {statistics.median(times) * 1000:.0f} ms")
    assert statistics.median(times) < 0.3


def test_exit_code_and_both_outputs(lab):
    result = lab.cpe.run("echo out; printf 'err' >&2; exit 7")
    assert (result.code, result.stdout, result.stderr) == (7, "out", "err")
    assert lab.cpe.run("printf 'a\\n\\nb'").stdout == "a\n\nb"
    with pytest.raises(CommandFailed, match="ended with 3"):
        lab.cpe.check("exit 3")


def test_long_and_many_lined_commands(lab):
    text = "x" * 5000
    assert lab.cpe.check(f"echo {text}") == text
    assert lab.cpe.check("for word in a b\ndo\n  echo $word\ndone") == "a\nb"


def test_a_command_that_hangs_is_interrupted(lab):
    with pytest.raises(LabError, match="no end of"):
        lab.cpe.run("sleep 60", timeout=1)
    assert lab.cpe.check("echo on we go") == "on we go"


def test_files_go_in_and_out(lab):
    data = os.urandom(20000)
    lab.cpe.put("/tmp/random data", data, mode=0o600)
    assert lab.cpe.get("/tmp/random data") == data
    assert lab.cpe.check("stat -c %a '/tmp/random data'") == "600"


def test_jobs_run_in_the_background(lab):
    job = lab.isp.spawn("sleep 60")
    assert job.poll() is None
    assert job.stop().code == 128 + 15
    assert lab.isp.spawn("echo done").wait().stdout == "done"


def test_every_link_carries_packets(lab):
    lab.cpe.check("ping -c 1 -W 5 2001:db8:c0de::1")
    lab.cpe.check("ping -c 1 -W 5 2001:db8:ffff::1")
    lab.cpe.check("ping -c 1 -W 5 192.168.1.10")
    assert lab.lan("ping -c 1 -W 5 192.168.1.1").code == 0
    assert lab.internet("ping -c 1 -W 5 198.51.100.254").code == 0


def test_links_are_captured(lab):
    lab.cpe.check("ping -c 3 -i 0.2 2001:db8:c0de::1; ping -c 3 -i 0.2 192.168.1.10")
    for link in lab.links.values():
        data = link.pcap.read_bytes()
        assert struct.unpack("<I", data[:4])[0] == 0xA1B2C3D4
        assert len(data) > 24 + 6 * 80


def test_the_internet_serves(lab):
    lab.wait_internet()
    host = lab.host_command
    [answer] = lab.isp.run(host("http http://198.51.100.2/big?bytes=200000")).json_lines()
    pattern = (bytes(range(256)) * 1000)[:200000]
    assert answer["sha256"] == hashlib.sha256(pattern).hexdigest()
    [answer] = lab.isp.run(host("tcp 203.0.113.1 --count 3")).json_lines()
    assert answer["ok"]
    assert answer["seen"][0] == "198.51.100.254"
    answers = lab.isp.run(host("udp 198.51.100.1 --sockets 5")).json_lines()
    assert [answer["seen"][1] for answer in answers] == [answer["local"] for answer in answers]
    good, answers = lab.host("ping 192.168.1.1 --count 2 --id 4242")
    assert good
    assert [answer["id"] for answer in answers] == [4242, 4242]


def test_one_connection_is_held_open(lab):
    lab.wait_internet()
    job = lab.isp.spawn(lab.host_command("counter 198.51.100.1 --seconds 2 --interval 0.5"))
    result = job.wait()
    assert result.code == 0
    assert result.json_lines()[-1]["n"] >= 3


def test_the_router_has_the_kernel_parts(lab):
    lab.cpe.check(
        "ip link add ds0 type ip6tnl mode ipip6 local 2001:db8:c0de::2 "
        "remote 2001:db8:ffff::1 encaplimit none && ip link set ds0 up"
    )
    lab.cpe.put("/tmp/rules.nft", RULES)
    lab.cpe.check("nft -f /tmp/rules.nft")
    assert "jhash ip saddr" in lab.cpe.check("nft list ruleset")
    lab.cpe.check("conntrack -L")
    lab.cpe.check("tc qdisc add dev ds0 root netem delay 10ms")
    lab.cpe.check("nft delete table inet lab; ip link del ds0")


def test_the_router_is_a_small_machine(lab):
    total = int(lab.cpe.check("sed -n 's/MemTotal: *//p' /proc/meminfo").split()[0])
    # What Linux leaves of a 64 MB router; Debian's big kernel is not counted in it.
    assert total < 64 * 1024
    assert lab.cpe.run("touch /etc/x").code != 0
    assert "tmpfs" in lab.cpe.check("df /var/run | tail -n 1")
    version = lab.cpe.check("micropython -c 'import sys; print(sys.implementation[1])'")
    assert version.startswith("(1, 2")


@pytest.mark.parametrize("way", ["reset", "kill"])
def test_a_power_cut_takes_what_was_not_flushed(make_lab, way):
    lab = make_lab(files={"config/lab": "given\n"}, capture=False)
    assert lab.cpe.check("cat /etc/config/lab") == "given"
    lab.cpe.check(
        "echo kept > /etc/cpe-agent/kept; sync; echo lost > /etc/cpe-agent/lost; "
        "echo lost > /var/run/lost"
    )
    if way == "reset":
        lab.cpe.reset()
    else:
        lab.cpe.kill()
        with pytest.raises(LabError, match="no power"):
            lab.cpe.run("true")
        lab.cpe.start_again()
    assert lab.cpe.check("cat /etc/config/lab /etc/cpe-agent/kept") == "given\nkept"
    # ext4 writes back after some seconds: by now the name may be there, the content is not.
    assert lab.cpe.run("cat /etc/cpe-agent/lost").stdout == ""
    assert lab.cpe.run("ls /var/run/lost").code != 0
    assert float(lab.cpe.check("cat /proc/uptime").split()[0]) < 60
    lab.cpe.check("ping -c 1 -W 5 2001:db8:ffff::1")


def test_every_prefix_of_the_flash_writes_can_be_replayed(make_lab, tmp_path):
    log, work = tmp_path / "flash.log", tmp_path / "work.img"
    lab = make_lab(flash_log=log, capture=False)
    lab.cpe.put("/tmp/files.py", FLASH_FILES)
    lab.cpe.check("sync")
    before = len(list(writelog.entries(log)))
    lab.cpe.check("micropython /tmp/files.py")
    lab.cpe.kill()
    allowed = [None] + [name * 100 for name in ("one", "two", "three")]
    seen, flushes = [], 0
    for number, write in enumerate(writelog.replay(writelog.base_path(log), log, work)):
        flushes += bool(write and write.is_flush)
        if number <= before or not write.size:
            continue
        with writelog.inspected(work) as disk:
            assert disk.fsck_code < 4
            found = disk.read("/cpe-agent/state")
        found = found.decode() if found is not None else None
        assert found in allowed
        if not seen or seen[-1] != found:
            seen.append(found)
    # Each state was there at some time, in order, and none came back.
    assert seen in (allowed, allowed[1:])
    assert flushes >= 3
    assert (
        hashlib.sha256(work.read_bytes()).digest()
        == hashlib.sha256(lab.flash.read_bytes()).digest()
    )


def test_flash_writes_are_counted(lab):
    lab.cpe.check("sync")
    before = lab.flash_writes()
    lab.cpe.check("sync")
    assert lab.flash_writes()["writes"] == before["writes"]
    lab.cpe.check("echo x > /etc/cpe-agent/counted; sync")
    after = lab.flash_writes()
    assert after["writes"] > before["writes"]
    assert after["bytes"] > before["bytes"]


def test_qemu_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("QEMU", "no-such-qemu")
    with pytest.raises(LabError, match="no-such-qemu"):
        Lab(tmp_path).start()


def test_an_unchanged_build_does_nothing():
    images.build()
    began = time.monotonic()
    assert images.build() == []
    assert time.monotonic() - began < 1


def test_micropython_runs_on_the_host():
    images.build(["micropython"])
    program = "import sys; print(sys.implementation.name, sys.argv[1:])"
    done = subprocess.run(
        [images.BUILD / "micropython", "-c", program, "a b"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("micropython")


def test_an_openwrt_image_is_never_written_to(tmp_path):
    content = os.urandom(1 << 20)
    image = tmp_path / "openwrt.img.gz"
    # OpenWrt appends metadata to its images; gzip itself calls that trailing garbage.
    image.write_bytes(gzip.compress(content) + b"metadata")
    lab = OpenWrtLab(tmp_path / "lab", openwrt.chosen({"OPENWRT_IMAGE": str(image)}))
    lab._make_router_disk()
    assert (lab.workdir / "openwrt.img").read_bytes() == content
    arguments = lab.cpe.machine.extra
    assert not any(str(image) in argument for argument in arguments)
    nets = [argument.split(",")[1] for argument in arguments if argument.startswith("dgram,")]
    assert nets == ["id=home", "id=access"]
    lab.stop()


def test_what_is_no_openwrt_is_named(tmp_path):
    with pytest.raises(LabError, match="no file"):
        openwrt.chosen({"OPENWRT_IMAGE": str(tmp_path / "no.img")})
    with pytest.raises(LabError, match="no OpenWrt"):
        openwrt.chosen({"OPENWRT_ROOT": str(tmp_path)})
    with pytest.raises(LabError, match="which one"):
        openwrt.chosen({"OPENWRT_IMAGE": "a", "OPENWRT_ROOT": "b"})
    assert openwrt.chosen({}) is None
