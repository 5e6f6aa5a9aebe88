"""The package in a root file system of real OpenWrt: its opkg, uci, busybox and libraries of shell
functions, without daemons. Skipped where OPENWRT_ROOT does not name one."""

import pytest

INSTALL = "opkg install /mnt/cpe-agent.ipk"
DEFAULTS = "cd /etc/uci-defaults && ( . ./90-cpe-agent ) && uci commit"
SECTIONS = {
    "cpe_agent_srcnat": {
        "type": "nftables",
        "path": "/var/run/cpe-agent/fw4-srcnat.nft",
        "position": "chain-pre",
        "chain": "srcnat",
    },
    "cpe_agent_table": {
        "type": "nftables",
        "path": "/var/run/cpe-agent/fw4-table.nft",
        "position": "table-post",
    },
}


@pytest.fixture
def shop(router, package):
    """A router that has the package's file."""
    (router.root / "mnt/cpe-agent.ipk").write_bytes(package.read_bytes())
    router.write("/bin/ubus", "#!/bin/sh\nexit 4\n")  # as where there is no ubusd
    router.say_installed(
        "kmod-nf-conntrack-netlink",
        "kmod-nft-connlimit",
        "kmod-ip6-tunnel",
        "resolveip",
        "micropython",
    )
    router.get("uci commit")  # comments are no part of what is compared
    return router


def tree(router):
    """{path: octets} of all files, but for caches and what lies in RAM."""
    return {
        str(path.relative_to(router.root)): path.read_bytes()
        for path in router.root.rglob("*")
        if path.is_file() and not path.is_symlink() and "tmp" not in path.parts
    }


def install(router):
    output = router.get(INSTALL)
    assert "Configuring cpe-agent" in output
    return output


def includes(router):
    """The package's sections, as fw4 will read them."""
    return {
        name: {
            option: router.run("uci -q get firewall.%s.%s" % (name, option))[1].strip()
            for option in SECTIONS[name]
        }
        for name in SECTIONS
    }


def test_installing_adds_the_includes_and_enables_the_service(shop):
    before = shop.get("uci export firewall")
    install(shop)
    assert includes(shop) == SECTIONS
    assert shop.get("uci export firewall").startswith(before.rstrip("\n"))
    assert shop.get("/etc/init.d/cpe-agent enabled && echo yes") == "yes\n"
    version = shop.get("cpe-agent version").strip()
    assert shop.get("opkg info cpe-agent | grep ^Version") == "Version: %s-r1\n" % version
    assert not (shop.root / "etc/uci-defaults/90-cpe-agent").exists()


def test_the_firewall_is_closed_before_anything_starts(shop):
    install(shop)
    for name in ("fw4-srcnat.nft", "fw4-table.nft"):
        run = shop.root / "tmp/run/cpe-agent" / name
        assert run.read_bytes() == (shop.root / "usr/share/cpe-agent" / name).read_bytes()
        run.write_text("# a set\n")
    shop.run("/etc/init.d/cpe-agent start")
    assert run.read_text() == "# a set\n", "a restart of the service leaves the rules of a set"
    start = {
        name: next((shop.root / "etc/rc.d").glob("S??" + name)).name[1:3]
        for name in ("boot", "cpe-agent", "firewall", "network")
    }
    assert start["boot"] < start["cpe-agent"] < start["firewall"] < start["network"]


def test_the_defaults_twice_are_the_defaults_once(shop, files):
    install(shop)
    once = tree(shop)
    shop.write("/etc/uci-defaults/90-cpe-agent", files["etc/uci-defaults/90-cpe-agent"][1].decode())
    shop.get(DEFAULTS)
    (shop.root / "etc/uci-defaults/90-cpe-agent").unlink()
    assert tree(shop) == once


def test_what_the_user_has_is_left(shop):
    shop.get(
        "uci set firewall.cpe_agent_table=include; uci set firewall.cpe_agent_table.enabled=0;"
        "uci set firewall.cpe_agent_table.path=/etc/mine.nft; uci commit firewall"
    )
    shop.write("/etc/config/cpe-agent", "config agent\n\toption backend 'none'\n")
    install(shop)
    assert shop.get("uci show firewall.cpe_agent_table").splitlines() == [
        "firewall.cpe_agent_table=include",
        "firewall.cpe_agent_table.enabled='0'",
        "firewall.cpe_agent_table.path='/etc/mine.nft'",
    ]
    assert includes(shop)["cpe_agent_srcnat"] == SECTIONS["cpe_agent_srcnat"]
    assert shop.get("uci get cpe-agent.@agent[0].backend") == "none\n"
    shop.get("opkg remove cpe-agent")
    assert shop.get("uci get firewall.cpe_agent_table.path") == "/etc/mine.nft\n"
    assert shop.run("uci -q get firewall.cpe_agent_srcnat")[0] != 0


def test_after_removal_all_is_as_before(shop):
    before, config = tree(shop), shop.get("uci export")
    install(shop)
    shop.get("opkg remove cpe-agent")
    assert shop.get("uci export") == config
    after = tree(shop)
    assert {name for name in after if before.get(name) != after[name]} <= {"usr/lib/opkg/status"}
    assert set(before) <= set(after)
    left = {str(path.relative_to(shop.root)) for path in shop.root.rglob("*cpe*agent*")}
    assert left == {"mnt/cpe-agent.ipk", "tmp/lock/procd_cpe-agent.lock"}


def test_removal_leaves_the_users_interface_and_pending_changes(shop):
    install(shop)
    shop.get(
        "touch /etc/config/network; uci set network.wan4=interface;"
        "uci set network.wan4.proto=lw4o6; uci commit network;"
        "uci set firewall.mine=rule; uci set firewall.mine.name=later"
    )
    shop.get("opkg remove cpe-agent")
    assert shop.get("uci get network.wan4.proto") == "lw4o6\n"
    assert "firewall.mine='rule'" in shop.get("uci changes firewall")
    assert "later" not in (shop.root / "etc/config/firewall").read_text()


def test_a_state_that_cannot_be_given_back_is_kept(shop):
    install(shop)
    state = shop.root / "etc/cpe-agent/state"
    state.parent.mkdir(exist_ok=True)
    state.write_text("nonce")
    assert "was not given back" in shop.get("opkg remove cpe-agent")
    assert state.read_text() == "nonce"


def test_an_upgrade_takes_nothing_down_and_keeps_all(shop):
    install(shop)
    shop.get("uci set firewall.cpe_agent_table.enabled=0; uci commit firewall")
    shop.write("/usr/sbin/cpe-agent", '#!/bin/sh\necho "$@" >> /mnt/called\n')
    shop.write("/bin/ubus", '#!/bin/sh\necho "$@" >> /mnt/called\nexit 4\n')
    (shop.root / "etc/cpe-agent").mkdir(exist_ok=True)
    (shop.root / "etc/cpe-agent/state").write_text("nonce")
    shop.get("sed -i 's/^Version: .*0.1.0-r1/Version: 0.0.1-r1/' /usr/lib/opkg/status")
    output = shop.get(INSTALL)
    assert "Upgrading cpe-agent" in output
    called = (shop.root / "mnt/called").read_text()
    assert "release" not in called and "down" not in called
    assert shop.get("uci get firewall.cpe_agent_table.enabled") == "0\n"
    assert (shop.root / "etc/cpe-agent/state").read_text() == "nonce"


def test_a_state_outlives_a_new_image(shop):
    install(shop)
    (shop.root / "etc/cpe-agent").mkdir(exist_ok=True)
    (shop.root / "etc/cpe-agent/state").write_text("nonce")
    shop.get("uci set cpe-agent.web=mapping; uci commit cpe-agent")
    # sysupgrade keeps what is below the paths in keep.d, and config files that were changed.
    kept = shop.get("find $(sed -ne '/^[[:space:]]*$/d; /^#/d; p' /lib/upgrade/keep.d/*) -type f")
    assert "/etc/cpe-agent/state" in kept.split()
    assert "/etc/config/cpe-agent" in shop.get("opkg list-changed-conffiles").split()
