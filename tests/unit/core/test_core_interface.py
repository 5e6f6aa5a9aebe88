"""What netifd hands over of a 'config interface' with proto lw4o6."""

from cpe_agent import config, interface

AFTR = {"peeraddr": "2001:db8::1"}


def refusal(name, texts):
    """What is said of options that cannot be used."""
    try:
        interface.read(name, texts)
    except config.ConfigError as error:
        return str(error)
    raise AssertionError("taken: %s" % texts)


def test_the_options_of_openwrt_are_ours_by_other_names():
    texts = {"peeraddr": "2001:db8::1", "ip6addr": "2001:db8::7", "ports": "512", "mtu": "1400"}
    softwire = interface.read("wan4", texts).softwire
    assert softwire.aftr == bytes.fromhex("20010db8") + b"\0" * 11 + b"\1"
    assert softwire.source[15] == 7
    assert (softwire.ports, softwire.mtu, softwire.device) == (512, 1400, "lw4-wan4")


def test_what_netifd_makes_of_numbers_and_flags_is_understood():
    texts = {"peeraddr": "2001:db8::1", "lifetime": 600, "parity": True, "mss_clamp": False}
    softwire = interface.read("wan4", texts).softwire
    assert (softwire.lifetime, softwire.parity, softwire.mss_clamp) == (600, True, False)


def test_an_empty_option_is_none():
    found = interface.read("wan4", {"peeraddr": "2001:db8::1", "server": [], "ports": ""})
    assert found == interface.read("wan4", AFTR)


def test_what_is_not_the_softwires_is_kept_apart():
    found = interface.read("wan4", {"peeraddr": "2001:db8::1", "release": "1", "zone": "wan"})
    assert (found.release, found.zone, found.tunlink) == (True, "wan", "")
    assert interface.read("wan4", AFTR).release is False


def test_options_of_netifd_itself_are_left_to_it():
    texts = {"peeraddr": "2001:db8::1", "proto": "lw4o6", "metric": 10, "defaultroute": False}
    assert interface.read("wan4", texts) == interface.read("wan4", AFTR)


def test_a_long_name_makes_a_device_name_that_linux_takes():
    device = interface.read("a_very_long_interface", AFTR).softwire.device
    assert device == "lw4-a_very_long" and len(device) == 15


def test_a_wrong_option_is_named_as_the_user_wrote_it():
    for option, value in (("peeraddr", "nonsense"), ("ip6addr", "192.0.2.1"), ("ports", "-1")):
        texts = {"peeraddr": "2001:db8::1"}
        texts[option] = value
        text = refusal("wan4", texts)
        assert "interface 'wan4': option %s '%s'" % (option, value) in text, text
    assert "option peeraddr is missing" in refusal("wan4", {})


def test_what_is_no_text_is_refused():
    for value in ({}, None, [{}], 1.5):
        assert "is no text" in refusal("wan4", {"peeraddr": value})
        assert "is no text" in refusal("wan4", {"peeraddr": "2001:db8::1", "zone": value})


def test_a_list_where_netifd_wants_a_word_is_refused():
    for option in ("zone", "tunlink", "release"):
        texts = {"peeraddr": "2001:db8::1", option: ["wan", "lan"]}
        assert "write 'option %s'" % option in refusal("wan4", texts)


def test_a_name_that_could_do_harm_in_a_script_is_refused():
    for name in ("", "a b", "wan;reboot", "x" * 33, "w\u00e4n", "../x", 5, None):
        assert "allowed" in refusal(name, AFTR)


def test_the_softwire_of_an_interface_is_the_configs():
    base = config.parse("config agent\n option backend openwrt\n")
    assert base.softwire is None
    wanted = interface.read("wan4", AFTR)
    joined = interface.join(base, wanted)
    assert joined.softwire == wanted.softwire
    assert interface.join(joined, None) == base


def test_a_mapping_in_the_way_of_the_softwire_is_refused():
    base = config.parse(
        "config agent\n option backend openwrt\n"
        "config mapping web\n option internal_port 80\n option server 2001:db8::1\n"
    )
    try:
        interface.join(base, interface.read("wan4", AFTR))
    except config.ConfigError as error:
        assert "mapping 'web'" in str(error)
    else:
        raise AssertionError("taken")


def test_a_softwire_section_beside_netifd_is_refused():
    text = "config agent\n option backend openwrt\nconfig softwire\n option aftr 2001:db8::1\n"
    try:
        config.parse(text)
    except config.ConfigError as error:
        assert "config interface" in str(error)
    else:
        raise AssertionError("taken")
