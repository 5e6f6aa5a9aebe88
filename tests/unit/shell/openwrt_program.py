"""The agent's command line, where ubusd, fw4, miniupnpd and their configs are the test's. Both
runtimes."""

import sys

from cpe_agent import cli
from cpe_agent.backends import fw4, miniupnpd, openwrt
from cpe_agent.pyubus import connection

FOLDER = sys.argv.pop(1)


class Firewall(fw4.Firewall):
    """With the test's files."""

    def __init__(self, run_dir):
        places = {"config": "/firewall", "fw4": "/fw4", "state": "/fw4.state"}
        super().__init__(run_dir, **{name: FOLDER + places[name] for name in places})


class Miniupnpd(miniupnpd.Miniupnpd):
    """With the test's files."""

    def __init__(self, interface):
        places = {"config": "/upnpd", "state": "/state/upnpd", "init": "/miniupnpd"}
        super().__init__(interface, **{name: FOLDER + places[name] for name in places})


openwrt.Firewall = Firewall
openwrt.Miniupnpd = Miniupnpd
connection.PATHS = (FOLDER + "/ubus.sock",)
cli.entry()
