"""The plan: what a grant makes of the network."""

import binascii

from cpe_agent import config, plan
from cpe_agent.netlink import Path
from cpe_agent.portset import PortSet

_TEXT = "config softwire\n\toption %s\nconfig agent\n\toption backend 'none'\n"
_PATH = Path("wan", 2, 1500, binascii.unhexlify("20010db8000000000000000000000002"))
_SET = PortSet("192.0.2.1", 1024, 1024)


def softwire(option):
    return config.parse(_TEXT % option).softwire


def test_a_server_without_an_lwaftr_gives_ports_but_nothing_to_build():
    assert plan.build(softwire("server '198.51.100.1'"), _PATH, _SET) is None


def test_an_lwaftr_and_a_set_give_a_softwire_to_it():
    built = plan.build(softwire("aftr '2001:db8::1'"), _PATH, _SET)
    assert (built.local, built.remote, built.mtu) == ("2001:db8::2", "2001:db8::1", 1460)
    assert plan.build(softwire("aftr '2001:db8::1'"), _PATH, None) is None
