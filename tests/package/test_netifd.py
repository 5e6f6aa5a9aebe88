"""The protocol handler and DHCPv6's script, run by the shell and the libraries of real OpenWrt.

'ubus' and the programs around them are stood in for. Skipped where OPENWRT_ROOT names no OpenWrt.
"""

import json
import shlex

import pytest

HANDLER = "cd /lib/netifd/proto && exec ./lw4o6.sh lw4o6 %s wan4 %s"
# Notes what it is called with. 'up' is answered by the file /mnt/reply; setup_failed ends the
# handler, as netifd does it.
UBUS = """#!/bin/sh
case "$*" in
*wait_for*) [ -e /mnt/agent ] ; exit ;;
esac
while [ "$1" != call ]; do shift; done
echo "$2 $3 $4" >>/mnt/called
case "$2 $3" in
"cpe-agent "*) [ -e /mnt/agent ] || exit 4 ;;
esac
case "$3" in
up)
    [ ! -e /mnt/fault ] || exit 9
    [ ! -e /mnt/reply ] || cat /mnt/reply
    ;;
status) echo '{ "autostart": true }' ;;
esac
"""
RESOLVEIP = """#!/bin/sh
[ "$1 $2" = "-6 aftr.example.net" ] && [ -e /mnt/dns ] && echo 2001:db8::1 && echo 2001:db8::2
"""


@pytest.fixture
def netifd(router, files):
    """A router with the package's files, an agent, and a name server."""
    for name, (_, octets, _) in files.items():
        if name.endswith((".sh", "odhcp6c.user.d/cpe-agent")):
            router.write(name, octets.decode())
    router.write("/bin/ubus", UBUS)
    router.write("/usr/sbin/resolveip", RESOLVEIP)
    router.write("/usr/sbin/cpe-agent", '#!/bin/sh\necho "learn: $*" >>/mnt/called\n')
    router.write("/bin/sleep", "#!/bin/sh\necho sleep >>/mnt/called\nsh /mnt/meanwhile\n")
    # busybox would take its own.
    shell = (router.root / "lib/netifd/proto/lw4o6.sh").read_text()
    router.write("/lib/netifd/proto/lw4o6.sh", shell.replace("sleep ", "/bin/sleep "))
    router.write("/mnt/meanwhile", "")
    router.write("/mnt/agent", "")
    router.write("/mnt/dns", "")
    return router


def setup(router, action="setup", **options):
    """Calls by the handler: [(object, method, arguments)]."""
    (router.root / "mnt/called").unlink(missing_ok=True)
    config = json.dumps(dict(options, proto="lw4o6"))
    router.get(HANDLER % (action, shlex.quote(config)))
    return calls(router)


def calls(router):
    path = router.root / "mnt/called"
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        path, method, arguments = (line + "  ").split(" ", 2)
        arguments = arguments.strip()
        found.append((path, method, json.loads(arguments) if arguments[:1] == "{" else arguments))
    return found


def asked(found):
    """What the agent was asked to bring up, or None."""
    ups = [arguments for path, method, arguments in found if (path, method) == ("cpe-agent", "up")]
    return ups[0] if ups else None


def codes(found):
    return [arguments["error"] for _, _, arguments in found if _action(arguments) == 3]


def _action(arguments):
    return arguments.get("action") if isinstance(arguments, dict) else None


def actions(found):
    return [_action(arguments) for _, method, arguments in found if method == "notify_proto"]


def test_what_netifd_is_told_of_the_protocol(router, files):
    router.write("/lib/netifd/proto/lw4o6.sh", files["lib/netifd/proto/lw4o6.sh"][1].decode())
    told = json.loads(router.get("cd /lib/netifd/proto && ./lw4o6.sh '' dump"))
    assert told["name"] == "lw4o6"
    assert told["no-device"] and told["no-proto-task"] and told["renew-handler"]
    kinds = dict(told["config"])
    text = 3
    for name in ("peeraddr", "ip6addr", "tunlink", "ports", "mtu", "release", "zone"):
        assert kinds[name] == text, "a wrong value of %s has to reach the agent" % name


def test_all_options_are_handed_over_as_text(netifd):
    found = setup(
        netifd,
        peeraddr="2001:db8::9",
        server=["2001:db8::5", "pcp.example.net"],
        tunlink="wan6",
        mtu="1460",
        ports="max",
        release="1",
        zone="wan",
        inner_address="192.0.0.2",
        metric=5,
        delegate=False,
    )
    assert asked(found) == {
        "interface": "wan4",
        "options": {
            "peeraddr": "2001:db8::9",
            "server": ["2001:db8::5", "pcp.example.net"],
            "tunlink": "wan6",
            "mtu": "1460",
            "ports": "max",
            "release": "1",
            "zone": "wan",
            "inner_address": "192.0.0.2",
        },
    }
    assert codes(found) == [] and 7 not in actions(found)


def test_odd_values_reach_the_agent_as_they_are(netifd):
    odd = "a 'b' \"c\" $(touch /mnt/pwned) ; \\ *"
    assert asked(setup(netifd, peeraddr="2001:db8::9", ports=odd))["options"]["ports"] == odd
    assert not (netifd.root / "mnt/pwned").exists()


def test_it_depends_on_its_uplink(netifd):
    (first, *_) = setup(netifd, peeraddr="2001:db8::9", tunlink="wan6")
    assert first[2] == {"action": 6, "host": "", "ifname": "wan6", "interface": "wan4"}
    (first, *_) = setup(netifd, peeraddr="2001:db8::9")
    assert first[2] == {"action": 6, "host": "::", "interface": "wan4"}


def test_a_name_is_resolved_and_the_first_address_taken(netifd):
    found = setup(netifd, peeraddr="aftr.example.net")
    assert asked(found)["options"]["peeraddr"] == "2001:db8::1"


@pytest.mark.parametrize(
    "missing, code", (("dns", "AFTR_DNS_FAIL"), ("agent", "NO_AGENT"), ("aftr", "NO_AFTR"))
)
def test_what_is_missing_is_shown_and_waited_for(netifd, missing, code):
    known = {} if missing == "aftr" else {"peeraddr": "aftr.example.net"}
    (netifd.root / "mnt" / missing).unlink(missing_ok=True)
    come = "mkdir -p /var/run/cpe-agent; echo aftr.example.net >/var/run/cpe-agent/aftr-wan6"
    come += "; : >/mnt/dns; : >/mnt/agent"
    # It comes at the third look.
    netifd.write("/mnt/meanwhile", "[ $(grep -c sleep /mnt/called) -lt 2 ] || { %s; }" % come)
    found = setup(netifd, **known)
    assert codes(found) == [[code]], "told once"
    assert [path for path, _, _ in found].count("sleep") == 2
    assert asked(found) is None and actions(found)[-1] == 7, "then netifd sets up again"
    found = setup(netifd, **known)
    assert codes(found) == [] and asked(found)["options"]["peeraddr"] == "2001:db8::1"


def test_a_wrong_option_is_shown_and_not_tried_again(netifd):
    netifd.write("/mnt/reply", '{ "code": "INVALID_OPTION", "error": "option mtu: \'abc\'" }')
    found = setup(netifd, peeraddr="2001:db8::9", mtu="abc")
    assert codes(found) == [["INVALID_OPTION", "option mtu: 'abc'"]]
    assert actions(found) == [6, 3]


def test_another_refusal_is_shown_and_tried_again_later(netifd):
    netifd.write("/mnt/reply", '{ "code": "ONE_SOFTWIRE", "error": "wan5 is up" }')
    found = setup(netifd, peeraddr="2001:db8::9")
    assert codes(found) == [["ONE_SOFTWIRE", "wan5 is up"]]
    assert "sleep" in [path for path, _, _ in found] and actions(found)[-1] == 7


def test_an_agent_that_cannot_answer_is_not_asked_without_end(netifd):
    netifd.write("/mnt/fault", "")
    found = setup(netifd, peeraddr="2001:db8::9")
    assert "sleep" in [path for path, _, _ in found] and actions(found)[-1] == 7


def test_teardown_and_renew_are_handed_over(netifd):
    assert setup(netifd, "teardown") == [("cpe-agent", "down", {"interface": "wan4"})]
    assert setup(netifd, "renew") == [("cpe-agent", "renew", {})]


def test_an_agent_that_is_away_does_not_come_back_with_the_interface(netifd):
    (netifd.root / "mnt/agent").unlink()
    netifd.write("/var/run/cpe-agent/interface", "[]")
    setup(netifd, "teardown")
    assert "interface" not in netifd.get("ls /var/run/cpe-agent")


# DHCPv6

SOURCE = ". /lib/functions.sh; set -- eth1 %s; ( . /etc/odhcp6c.user.d/cpe-agent )"
NETWORK = """
config interface 'learned'
	option proto 'lw4o6'

config interface 'fixed'
	option proto 'lw4o6'
	option peeraddr '2001:db8::9'

config interface 'elsewhere'
	option proto 'lw4o6'
	option tunlink 'wwan'

config interface 'other'
	option proto 'dhcp'
"""
OPTION_86 = "20010db8000000000000000000000005"


def event(router, name, **variables):
    """What an event of odhcp6c makes the script call."""
    (router.root / "mnt/called").unlink(missing_ok=True)
    router.get(SOURCE % name, INTERFACE="wan6", **variables)
    path = router.root / "mnt/called"
    return path.read_text().splitlines() if path.exists() else []


def aftr(router):
    return (router.root / "tmp/run/cpe-agent/aftr-wan6").read_text()


def test_pcp_servers_are_told_when_they_change(netifd):
    told = ["learn: learn eth1 dhcpv6 " + OPTION_86]
    assert event(netifd, "bound", OPTION_86=OPTION_86) == told
    for name in ("updated", "ra-updated", "rebound"):
        assert event(netifd, name, OPTION_86=OPTION_86) == []
    other = OPTION_86[:-1] + "6"
    assert event(netifd, "updated", OPTION_86=other) == ["learn: learn eth1 dhcpv6 " + other]
    assert event(netifd, "stopped", OPTION_86=other) == ["learn: learn eth1 dhcpv6"]
    assert event(netifd, "stopped") == []


def test_an_aftr_is_kept_for_the_handler(netifd):
    event(netifd, "bound", AFTR="aftr.example.net.")
    assert aftr(netifd) == "aftr.example.net\n"
    assert asked(setup(netifd))["options"]["peeraddr"] == "2001:db8::1"
    assert asked(setup(netifd, tunlink="wan6"))["options"]["peeraddr"] == "2001:db8::1"
    event(netifd, "unbound")
    assert aftr(netifd) == "\n"


def test_a_new_aftr_sets_up_anew_who_learned_it(netifd):
    netifd.write("/etc/config/network", NETWORK)
    event(netifd, "bound", AFTR="aftr.example.net")
    assert event(netifd, "updated", AFTR="aftr.example.net") == []
    path = "network.interface.learned"
    assert event(netifd, "updated", AFTR="2001:db8::7") == [
        path + " status ",
        path + " down ",
        path + " up ",
    ]


@pytest.mark.parametrize("name", ("$(touch /mnt/pwned)", "-x", "a b", "a;b", "a" * 256, "../x"))
def test_an_aftr_that_is_no_host_is_nothing(netifd, name):
    event(netifd, "bound", AFTR=name)
    assert not (netifd.root / "mnt/pwned").exists()
    written = netifd.root / "tmp/run/cpe-agent/aftr-wan6"
    assert not written.exists() or written.read_text() == "\n"
