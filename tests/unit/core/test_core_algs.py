"""algs.py: helpers of the kernel that announce ports that are not ours. Both runtimes."""

from cpe_agent import algs, uci

FTP = ["nf_nat_ftp"]
LAN = {"name": "lan", "network": ["lan"]}
WAN = {"name": "wan", "network": ["wan4"], "masq": "1"}


def zones(*options, defaults=None):
    sections = [uci.Section("zone", None, one) for one in options]
    sections.append(uci.Section("defaults", None, defaults or {}))
    return algs.zones_with_helpers(sections, "wan")


def test_fw4_gives_flows_to_them_unless_told_otherwise():
    guest = {"name": "guest"}
    assert zones(LAN, WAN, guest) == ["lan", "guest"]
    assert zones(dict(LAN, auto_helper="0"), WAN) == []
    assert zones(dict(LAN, masq="1"), WAN) == []
    assert zones(dict(LAN, enabled="0"), WAN) == []
    assert zones(LAN, WAN, defaults={"auto_helper": "0"}) == []


def test_helpers_that_a_zone_names_are_used_whatever_else_it_says():
    assert zones(dict(LAN, auto_helper="0", helper=["ftp"]), WAN) == ["lan"]


def test_a_warning_says_which_and_what_to_do():
    (found,) = algs.problems(FTP + ["nf_nat_sip"], ["lan", "guest"])
    assert found.startswith("nf_nat_ftp, nf_nat_sip may announce ports outside of the port sets")
    assert "option auto_helper '0' in zone 'lan', 'guest'" in found
    (found,) = algs.problems(FTP, None)
    assert "sysctl" in found


def test_what_is_not_loaded_or_not_used_is_no_problem():
    assert algs.problems([], ["lan"]) == []
    assert algs.problems([], None) == []
    assert algs.problems(FTP, []) == []
