"""What OpenWrt's firewall is told, when it is told, and what is wrong with its config."""

import os

from cpe_agent import fw4_table, nft, own_table, portset, uci
from cpe_agent.backends import BackendError, child, fw4, kernel
from cpe_agent.plan import Plan

DEVICE = "lw4-wan4"
RUN_DIR = "/var/run/cpe-agent"


def plan(first=1024, protocol=0, mss=1420, more=(), closed=(), size=1024, timeouts="keep"):
    """more, closed: first ports of additional sets."""
    port_set, *others = [
        portset.PortSet("192.0.2.3", one, size) for one in (first,) + more + closed
    ]
    return Plan(
        device=DEVICE,
        underlay="wan",
        local="2001:db8::2",
        remote="2001:db8::1",
        mtu=1460,
        address=port_set.address,
        inner="192.0.0.2",
        metric=0,
        port_sets=(port_set,) + tuple(others),
        open_sets=(port_set,) + tuple(others[: len(more)]),
        reserved=(),
        protocol=protocol,
        more=(),
        mss=mss,
        host_limit=0,
        flow_timeouts=timeouts,
        forwards=(),
        nat="",
        mark="",
    )


def rules(text):
    """Rules of a fragment by the name of their chain; those outside of any under None."""
    found, chain = {None: []}, None
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("chain "):
            chain = line.split()[1]
            found[chain] = []
        elif line == "}":
            chain = None
        elif line and not line.startswith(("#", "type ")):
            found[chain].append(line)
    return found


# The text


def test_the_nat_rules_are_for_ipv4_and_bear_the_mark():
    made = fw4.fragments(plan(size=128))
    (rule,) = rules(made.source_nat)[None]
    jump = 'oifname "lw4-wan4" jump cpe_agent_translate'
    assert rule == '%s comment "%s"' % (jump, made.mark)
    found = rules(made.chains)
    assert found["cpe_agent_translate"][-1] == "meta l4proto icmp snat ip to 192.0.2.3:1024-1151"
    for name in ("tcp", "udp"):
        counted, uncounted = found["cpe_agent_%s_0" % name]
        assert "meta l4proto %s add @cpe_agent_room_1024_128 {" % name in counted
        assert "th dport != @cpe_agent_room_1024_128 snat" in uncounted
        last = found["cpe_agent_walk_" + name][-1]
        for one in (counted, uncounted, last):
            assert one.endswith(" snat ip to 192.0.2.3:1024-1151")


def test_every_chain_that_is_gone_to_is_there():
    for wanted in (plan(), plan(protocol=6), plan(more=(4096,)), plan(mss=None)):
        made = fw4.fragments(wanted)
        names = [word.rstrip(",") for word in (made.source_nat + made.chains).split()]
        goals = {names[at + 1] for at, word in enumerate(names) if word == "jump"}
        assert goals <= set(rules(made.chains))


def test_every_port_of_every_open_set_is_for_new_flows_and_no_other():
    made = fw4.fragments(plan(more=(4096,), closed=(8192,)))
    taken = set()
    chains = rules(made.chains)
    for rule in [rule for name in chains for rule in chains[name] if " snat ip to " in rule]:
        first, _, last = rule.split(" snat ip to 192.0.2.3:")[1].partition("-")
        if "ct count" in rule:
            taken |= set(range(int(first), int(last) + 1))
            assert int(last) - int(first) < 128  # what the kernel searches whole
    assert taken == set(range(1024, 2048)) | set(range(4096, 5120))


def test_a_closed_set_still_passes_the_guards():
    found = rules(fw4.fragments(plan(more=(4096,), closed=(8192,))).chains)
    for chain in ("cpe_agent_guard_out", "cpe_agent_guard_in"):
        assert "port & 0xfc00 == { 1024, 4096, 8192 }" in "\n".join(found[chain])


def test_ports_that_no_bits_tell_are_named():
    """Sets of other sizes, or that begin anywhere: an operator may give what he likes."""
    for first, size, words in ((1000, 1024, "1000-2023"), (1024, 1000, "1024-2023"), (7, 1, "7")):
        found = rules(fw4.fragments(plan(first=first, size=size)).chains)
        for chain in ("cpe_agent_guard_out", "cpe_agent_guard_in"):
            assert "port %s return" % words in "\n".join(found[chain])


def test_the_sets_that_rules_count_in_are_declared():
    made = fw4.fragments(plan(more=(4096,)))
    used = {word[1:] for word in made.chains.split() if word.startswith("@cpe_agent")}
    declared = {line.split()[1] for line in made.chains.split("\n") if line.startswith("set ")}
    assert used == declared and len(used) == 16


def test_only_the_set_of_the_one_device_passes_the_guards():
    found = rules(fw4.fragments(plan()).chains)
    for chain, device, side, port in (
        ("cpe_agent_guard_out", "oifname", "saddr", "sport"),
        ("cpe_agent_guard_in", "iifname", "daddr", "dport"),
    ):
        chain = found[chain]
        start = chain.index('%s != "lw4-*" return' % device)
        ipv6, other, *_ = chain[start + 1 :]
        *ports, echo, last = [
            one
            for one in chain
            if "iifname" not in one
            and "oifname" not in one
            and one != ipv6
            and "maxseg" not in one
            and "unreach" not in one
            and "!= syn" not in one
        ]
        errors = [one for one in chain if "unreach" in one]
        counter = "outside_out" if side == "saddr" else "outside_in"
        ours = "ip %s 192.0.2.3 " % side
        drop = '%s != "lw4-wan4" counter name cpe_agent_%s drop' % (device, counter)
        assert other == drop
        assert ipv6 == "meta nfproto ipv6 drop"
        words = ours + "meta l4proto %d th %s & 0xfc00 == 1024 return"
        assert ports == [words % (number, port) for number in (17, 6)]
        assert echo == (
            ours + "icmp type { echo-request, echo-reply } icmp id & 0xfc00 == 1024 return"
        )
        assert len(errors) == (3 if side == "saddr" else 1)
        for error in errors:
            assert error.startswith(ours + "icmp type { destination-unreachable, ")
        assert last.startswith("counter name cpe_agent_%s drop" % counter)


def test_without_a_plan_nothing_passes_any_softwire():
    made = fw4.fragments(None)
    assert rules(made.source_nat) == {None: []}
    found = rules(made.chains)
    for chain, device in (("cpe_agent_guard_out", "oifname"), ("cpe_agent_guard_in", "iifname")):
        first, ipv6, last = found[chain]
        assert first == '%s != "lw4-*" return' % device
        assert ipv6 == "meta nfproto ipv6 drop"
        assert " drop" in last
        assert "return" not in last


def test_what_leaves_before_its_device_is_asked_has_our_address_and_port():
    chain = rules(fw4.fragments(plan()).chains)["cpe_agent_guard_out"]
    bulk = chain[: chain.index('oifname != "lw4-*" return')]
    assert len(bulk) == 3 and "maxseg" in bulk[2]
    for rule in bulk[:2]:
        assert rule.startswith("ip saddr 192.0.2.3 meta l4proto ")
        assert " th sport & 0xfc00 == 1024 " in rule and rule.endswith(" return")


def test_what_circles_is_dropped_before_the_firewall_can_answer_it():
    first = rules(fw4.fragments(plan()).chains)["cpe_agent_forward"][0]
    assert first == 'ip daddr 192.0.2.3 iifname "lw4-wan4" counter name cpe_agent_looped drop'


def test_segments_are_clamped_by_option():
    for mss, lines in ((1420, 2), (None, 0)):
        text = fw4.fragments(plan(mss=mss)).chains
        assert text.count("tcp option maxseg size set 1420") == lines


def test_hooks_and_names_never_change():
    """fw4's reload keeps the chains, and nft refuses to give one that is there another hook."""
    heads = []
    for wanted in (plan(), plan(first=2048, protocol=17, mss=None), None):
        lines = fw4.fragments(wanted).chains.split("\n")
        types = [at for at, line in enumerate(lines) if line.startswith("\ttype ")]
        heads.append([line for at in types for line in lines[at - 1 : at + 1]])
    assert heads[0] == heads[1] == heads[2] + heads[0][-2:], "no plan, nothing to forward"
    assert [line.split(";")[0] for line in heads[0]] == [
        "chain cpe_agent_guard_out {",
        "\ttype filter hook postrouting priority 110",
        "chain cpe_agent_guard_in {",
        "\ttype filter hook prerouting priority raw",
        "chain cpe_agent_forward {",
        "\ttype filter hook forward priority mangle",
    ]


def test_each_difference_has_another_mark_and_the_same_has_the_same():
    wanted = (plan(), plan(first=2048), plan(protocol=17), plan(mss=None), None)
    marks = [fw4.fragments(one).mark for one in wanted]
    assert len(set(marks)) == len(marks)
    assert marks == [fw4.fragments(one).mark for one in wanted]


def test_counters_of_fw4s_table_are_told_by_the_guards_names():
    listing = (
        "table inet fw4 {\n\tcounter cpe_agent_outside_out {\n\t\tpackets 3 bytes 9\n\t}\n"
        "\tcounter outside_in {\n\t\tpackets 7 bytes 9\n\t}\n}\n"
    )
    assert nft.parse_counters(listing, fw4_table.PREFIX) == {"outside_out": 3}


def test_a_set_for_one_protocol_lets_nothing_else_pass():
    made = fw4.fragments(plan(protocol=17))
    chains = rules(made.chains)
    translated = str([chains["cpe_agent_" + name] for name in ("translate", "walk_udp", "udp_0")])
    assert "cpe_agent_walk_tcp" not in chains
    assert "tcp" not in translated and "icmp" not in translated
    assert made.chains.count("meta l4proto 17 th ") == 2
    assert "l4proto 6" not in made.chains and "l4proto tcp" not in made.chains
    assert "echo-request" not in made.chains


# The firewall


class Router:
    """An fw4 that does what the real one was seen to do, and notes what it was asked."""

    def __init__(self, running=True):
        self.dir = "/tmp/cpe-agent-test-" + "".join(["%02x" % octet for octet in os.urandom(8)])
        os.mkdir(self.dir)
        self.commands = []
        self.running = running
        self.includes = True
        self.broken = ""  # what nft says to whatever fw4 renders
        self.died = ""  # what a reload says that ends with an error
        self.full = False  # the RAM that files are in
        self.refuses = ""  # what 'nft -c' says to our files
        self.loaded = {}  # chain -> text
        self.guard = ""  # of a table of our own, which fw4 does not touch
        self.write("config", CONFIG.replace(RUN_DIR, self.dir))
        if running:
            self.write("state", "{}")
        self.restart_agent()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in os.listdir(self.dir):
            os.remove(self.dir + "/" + name)
        os.rmdir(self.dir)

    def restart_agent(self, program="fw4"):
        paths = [self.dir + name for name in ("/config", "/state")]
        self.firewall = fw4.Firewall(self.dir, self.run, paths[0], program, paths[1])

    def write(self, name, text):
        with open(self.dir + "/" + name, "w") as file:
            file.write(text)

    def files(self):
        """(source NAT, chains) as fw4 would include them."""
        texts = []
        for name in (fw4.SOURCE_NAT, fw4.CHAINS):
            with open(self.dir + "/" + name) as file:
                texts.append(file.read())
        return tuple(texts)

    def reloads(self):
        return self.commands.count("fw4 reload")

    def run(self, command):
        self.commands.append(command)
        if command.startswith("nft -c -f "):
            return (1, self.refuses) if self.refuses else (0, "")
        if command.startswith("nft -f "):
            with open(command.split()[-1]) as file:
                self.guard = file.read()
            return 0, ""
        if self.full and command.startswith("nft list"):
            return 0, ""  # what could not be written is lost
        if command == "nft list chain " + own_table.LAST_GUARD:
            return (0, self.guard + "}\n") if self.guard else (1, "Error: No such file")
        if command == "fw4 reload":
            return self.reload()
        chain = command.split()[-1]
        listed = self.loaded.get(chain)
        return (1, "Error: No such file") if listed is None else (0, listed + "}\n")

    def reload(self):
        if not self.running:
            return 1, "The fw4 firewall does not appear to be loaded.\n"
        if self.died:
            return 1, self.died
        if self.broken:
            return 0, self.broken
        texts = self.files() if self.includes else ("", "")
        self.loaded = dict(zip(("srcnat", "cpe_agent_guard_out"), texts))
        return 0, "[!] Section @rule[9] is disabled, ignoring section\n"


def refusal(router, wanted):
    """What set_rules complains of, or None."""
    try:
        router.firewall.set_rules(wanted)
    except BackendError as error:
        return str(error)
    return None


def test_a_set_is_written_checked_loaded_and_found_in_force():
    with Router() as router:
        assert not router.firewall.in_force(plan())
        assert router.firewall.set_rules(plan()) is True
        assert router.files() == fw4.fragments(plan())[:2]
        first, second, guard = [one for one in router.commands if "list" not in one][:3]
        assert first.startswith("nft -c -f "), "what may be refused is tried first"
        assert second == "fw4 reload"
        assert guard.startswith("nft -f "), "the old one stays where fw4 fails"
        assert router.firewall.in_force(plan())
        assert not router.firewall.in_force(plan(first=2048))
        assert not router.firewall.in_force(None)


def test_full_ram_reloads_nothing():
    with Router() as router:
        router.firewall.set_rules(plan())
        router.full = True
        assert "no room" in refusal(router, plan())
        assert router.reloads() == 1
        router.full = False
        assert router.firewall.set_rules(plan()) is False


def test_the_same_set_again_reloads_nothing_also_after_a_restart():
    with Router() as router:
        router.firewall.set_rules(plan())
        assert router.firewall.set_rules(plan()) is False
        router.restart_agent()
        assert router.firewall.set_rules(plan()) is False
        assert router.reloads() == 1


def test_each_change_reloads_once_and_closing_is_one():
    with Router() as router:
        for wanted in (plan(), plan(first=2048), None, plan()):
            assert router.firewall.set_rules(wanted) is True
            assert router.firewall.in_force(wanted)
        assert router.reloads() == 4


def test_the_last_guard_is_ours_alone_and_holds_to_the_set():
    with Router() as router:
        router.firewall.set_rules(plan())
        assert "ip saddr 192.0.2.3 meta l4proto 6 th sport & 0xfc00 == 1024" in router.guard
        assert 'last_guard ip daddr 192.0.2.3 iifname "lw4-wan4" drop' in router.guard
        lines = router.guard.rstrip().split("\n")
        assert lines[-1].startswith("add rule ip cpe_agent last_guard")
        passing = [line for line in lines if line.endswith(" return") and " saddr " in line]
        other = [at for at, line in enumerate(lines) if 'oifname != "lw4-wan4" drop' in line]
        early = [line for line in passing if lines.index(line) < other[0]]
        assert early and all('oifname "lw4-wan4" return' in line for line in early)
        loads = len([one for one in router.commands if one.startswith("nft -f ")])
        router.firewall.set_rules(plan(mss=1300))
        assert len([one for one in router.commands if one.startswith("nft -f ")]) == loads
        router.firewall.set_rules(None)
        assert "return" not in router.guard.split("lw4-*", 1)[1].split("\n", 1)[1]


def test_a_last_guard_that_is_gone_comes_back_without_a_reload():
    with Router() as router:
        router.firewall.set_rules(plan())
        router.guard = ""
        assert router.firewall.set_rules(plan()) is True
        assert router.guard and router.reloads() == 1


def test_rules_that_are_gone_come_back():
    """Somebody loaded another ruleset, and the files are still right."""
    with Router() as router:
        router.firewall.set_rules(plan())
        router.loaded = {"srcnat": "", "cpe_agent_guard_out": ""}
        assert router.firewall.set_rules(plan()) is True
        assert router.firewall.in_force(plan())


def test_files_that_were_changed_come_back():
    """What is loaded is right, but the firewall's next start would find something else."""
    with Router() as router:
        router.firewall.set_rules(plan())
        router.write(fw4.CHAINS, "")
        assert router.firewall.set_rules(plan()) is True
        assert router.files() == fw4.fragments(plan())[:2]


def test_half_of_the_rules_is_not_in_force():
    with Router() as router:
        router.firewall.set_rules(plan())
        for chain in ("srcnat", "cpe_agent_guard_out"):
            whole = dict(router.loaded)
            router.loaded[chain] = "another"
            assert not router.firewall.in_force(plan()), chain
            router.loaded = whole
        assert router.firewall.in_force(plan())


def test_what_nft_refuses_never_replaces_the_last_good_files():
    with Router() as router:
        router.firewall.set_rules(plan())
        router.refuses = "/x:3:1-4: Error: syntax error, unexpected snap\nsnap\n^^^^\n"
        said = refusal(router, plan(first=2048))
        assert "nft refuses our rules: Error: syntax error, unexpected snap" in said
        assert router.files() == fw4.fragments(plan())[:2]
        assert router.reloads() == 1


def test_a_kernel_without_timeouts_of_flows_is_told_with_what_to_do():
    with Router() as router:
        router.refuses = (
            "/x:9:12-30: Error: Could not process rule: No such file or directory\n"
            "ct timeout cpe_agent_small_tcp { protocol tcp; l3proto ip; }\n"
            "           ^^^^^^^^^^^^^^^^^^^\n"
        )
        said = refusal(router, plan(timeouts="small"))
        assert "set option flow_timeouts 'keep'" in said


def test_a_reload_that_nft_refuses_puts_the_last_good_files_back():
    """fw4 exits 0 all the same; the mark tells. A firewall that starts anew must find good ones."""
    with Router() as router:
        router.firewall.set_rules(plan())
        router.broken = "[!] Section x\n/dev/stdin:9:1-5: Error: Could not process rule\n"
        said = refusal(router, plan(first=2048))
        assert "'fw4 check' shows it" in said
        assert "Error: Could not process rule" in said
        assert "[!]" not in said
        assert router.files() == fw4.fragments(plan())[:2]
        assert router.firewall.in_force(plan())


def test_a_reload_that_ends_badly_is_told_without_fw4s_other_remarks():
    with Router() as router:
        router.died = "[!] Section @rule[9] is disabled\nutpl: out of memory\n"
        assert refusal(router, plan()) == "'fw4 reload' failed: utpl: out of memory"


def test_the_first_set_that_is_refused_leaves_a_closed_firewall():
    with Router() as router:
        router.broken = "Error: no\n"
        assert refusal(router, plan())
        assert router.files() == fw4.fragments(None)[:2]


def test_closing_stays_even_where_fw4_cannot_reload():
    """The set may be a neighbour's soon: the next start of the firewall must not know it."""
    with Router() as router:
        router.firewall.set_rules(plan())
        router.broken = "Error: somebody else's rule\n"
        assert "somebody else's rule" in refusal(router, None)
        assert "return" not in router.guard.split("lw4-*", 1)[1].split("\n", 1)[1]
        assert router.files() == fw4.fragments(None)[:2]


def test_a_stopped_firewall_can_be_closed_but_not_opened():
    with Router(running=False) as router:
        assert router.firewall.set_rules(None) is True
        assert router.firewall.set_rules(None) is False
        assert "'service firewall start'" in refusal(router, plan())
        assert router.files() == fw4.fragments(None)[:2]
        router.restart_agent(program=router.dir)
        (found,) = router.firewall.problems(DEVICE, "wan4")
        assert "'service firewall start'" in found


def test_a_config_without_our_sections_is_what_is_complained_of():
    with Router() as router:
        router.includes = False
        router.write("config", "config defaults\n")
        said = refusal(router, plan())
        assert "'config include cpe_agent_srcnat'" in said
        assert "'config include cpe_agent_table'" in said


def test_a_command_tells_its_code_and_all_that_it_said():
    with Router() as router:
        path = router.dir + "/output"
        assert child.run("sh -c 'echo out; echo error >&2; exit 7'", path) == (7, "out\nerror\n")
        assert child.run("true", path) == (0, "")
        code, said = child.run("true", router.dir + "/no/such/folder")
        assert code != 0
        assert "cannot read" in said


# fw4's config

CONFIG = """
config zone
    option name 'wan'
    list network 'wan'
    list network 'wan4'

config include 'cpe_agent_srcnat'
    option type 'nftables'
    option path '/var/run/cpe-agent/fw4-srcnat.nft'
    option position 'chain-pre'
    option chain 'srcnat'

config include 'cpe_agent_table'
    option type 'nftables'
    option path '/var/run/cpe-agent/fw4-table.nft'
    option position 'table-post'
"""


def problems(text, device=DEVICE, name="wan4", zone=""):
    sections = uci.parse(text)
    found = fw4.include_problems(sections, RUN_DIR)
    return found + fw4.zone_problems(sections, device, name, zone)


def test_the_packages_own_sections_have_no_problem():
    assert problems(CONFIG) == []


def test_fw4s_other_ways_to_write_them_have_none_either():
    for old, new in (
        ("'chain-pre'", "'chain-prepend'"),
        ("'table-post'", "'table-append'"),
        ("option position 'table-post'", "option enabled '1'"),
        ("config include 'cpe_agent_table'", "config include"),
        ("list network 'wan4'", "option network 'wan wan4'"),
        ("list network 'wan4'", "list device 'lw4-wan4'"),
        ("list network 'wan4'", "list device 'lw4-+'"),
    ):
        text = CONFIG.replace(old, new)
        assert text != CONFIG
        assert problems(text) == [], new


def test_each_fault_of_an_include_is_told_with_its_cure():
    for old, new, said in (
        ("include 'cpe_agent_table'", "exclude 'cpe_agent_table'", "include cpe_agent_table"),
        ("fw4-srcnat.nft", "other.nft", "include cpe_agent_srcnat"),
        ("option chain 'srcnat'", "option chain 'dstnat'", "option chain to 'srcnat'"),
        ("'chain-pre'", "'chain-post'", "option position to 'chain-pre'"),
        ("'table-post'", "'ruleset-post'", "option position to 'table-post'"),
        ("option chain 'srcnat'", "option enabled 'off'\n option chain 'srcnat'", "is disabled"),
        ("option type 'nftables'", "option type 'script'", "option type to 'nftables'"),
    ):
        text = CONFIG.replace(old, new, 1)
        assert text != CONFIG
        found = problems(text)
        assert len(found) == 1, (new, found)
        assert said in found[0], found


def test_a_second_section_that_is_right_makes_up_for_a_disabled_one():
    text = CONFIG + CONFIG.replace("'cpe_agent_", "'other_")
    assert problems(text.replace("option type", "option enabled '0'\n option type", 1)) == []


def test_an_interface_in_no_zone_is_told():
    without = CONFIG.replace("    list network 'wan4'\n", "")
    for text in (
        without,
        CONFIG.replace("config zone", "config zone\n option enabled '0'"),
        CONFIG.replace("list network 'wan4'", "list network '!wan4'"),
        CONFIG.replace("list network 'wan4'", "list device 'lw4-wan40'"),
    ):
        (found,) = problems(text)
        assert "'wan4' is in no zone" in found
    assert problems(without, zone="wan") == []
    (found,) = problems(without, zone="dmz")
    assert "no zone 'dmz'" in found
    assert problems(CONFIG, zone="dmz") == []


def test_problems_are_told_of_a_file_that_is_read_again_when_it_changes():
    with Router() as router:
        router.restart_agent(program=router.dir)
        assert router.firewall.problems(DEVICE, "wan4") == []
        router.write("config", "config defaults\n")
        assert len(router.firewall.problems(DEVICE, "wan4")) == 3
        router.write("config", "config 'defaults\n")
        (found,) = router.firewall.problems(DEVICE, "wan4")
        assert "is not closed" in found
        os.remove(router.dir + "/config")
        (found,) = router.firewall.problems(DEVICE, "wan4")
        assert "cannot read" in found


def test_gateways_that_announce_foreign_ports_are_told():
    genuine = kernel.gateways
    kernel.gateways = lambda: ["nf_nat_ftp"]
    try:
        with Router() as router:
            router.restart_agent(program=router.dir)
            lan = "config zone\n option name 'lan'\n list network 'lan'\n"
            router.write("config", CONFIG.replace(RUN_DIR, router.dir) + lan)
            (found,) = router.firewall.problems(DEVICE, "wan4", plan=plan())
            assert "nf_nat_ftp may announce ports" in found and "zone 'lan'" in found
    finally:
        kernel.gateways = genuine


def test_another_firewall_than_fw4_is_told():
    with Router() as router:
        (found,) = router.firewall.problems(DEVICE, "wan4")
        assert "not fw4" in found


def test_the_number_of_a_table_is_found_in_what_nft_lists():
    table = '{"table": {"family": "%s", "name": "%s", "handle": %d}}'
    tables = ", ".join([table % one for one in (("ip", "fw4", 3), ("inet", "fw4", 7))])
    listing = '{"nftables": [{"metainfo": {"version": "1.0.6"}}, %s]}' % tables
    assert nft.table_number(listing, "inet fw4") == 7
    for text in ("", "{}", "[]", "Error: syntax", '{"nftables": [{"table": 1}]}', listing[:-9]):
        assert nft.table_number(text, "inet fw4") is None, text
    assert nft.table_number(listing, "inet other") is None
