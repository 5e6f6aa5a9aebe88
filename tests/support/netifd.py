"""A stand-in for netifd, where the genuine one cannot run: one interface, 'wan4', of proto lw4o6.
And one for procd, as far as fw4 asks it for what services want of the firewall.

It does what netifd was seen to do (OpenWrt 24.10, tests/openwrt has the same tests against it):
an interface that is set up stays pending until somebody tells it that the link is up; errors are
kept until the next set-up; who is being taken down does not listen. Where netifd makes a tunnel,
this makes a veth pair, since not every test machine's kernel has tunnels.

python netifd.py SOCKET: runs until it is killed.
"""

import subprocess
import sys

from cpe_agent.pyubus import (
    ARRAY,
    BOOL,
    INT32,
    NOT_FOUND,
    PERMISSION_DENIED,
    STRING,
    TABLE,
    Method,
    UbusError,
)
from cpe_agent.pyubus.blocking import Ubus

NAME = "wan4"
FAR_END = "far-end"  # of the cable that stands for the tunnel
UPDATE, ERROR, SET_UP_AGAIN = 0, 3, 7
NOTIFICATION = (
    ("action", INT32),
    ("error", ARRAY),
    ("link-up", BOOL),
    ("ifname", STRING),
    ("routes", ARRAY),
    ("tunnel", TABLE),
    ("data", TABLE),
    ("ipaddr", ARRAY),
    ("interface", STRING),
)


def ip(words):
    """Run ip."""
    subprocess.run(["ip", *words.split()], check=True)


class Interface:
    """One interface, from 'down' by 'setup' to 'up', and back by 'teardown'."""

    def __init__(self, bus):
        self.bus = bus
        self.state = "down"
        self.autostart = False
        self.options = {}
        self.errors = []
        self.update = {}
        self.updates = 0

    def status(self, _=None):
        """As 'ubus call network.interface.wan4 status'."""
        found = {
            "interface": NAME,
            "up": self.state == "up",
            "pending": self.state == "setup",
            "autostart": self.autostart,
            "proto": "lw4o6",
            "data": self.update.get("data", {}),
            "updates": self.updates,
        }
        if self.state == "up":
            found["l3_device"] = self.update["ifname"]
            found["ipv4-address"] = self.update["ipaddr"]
        if self.errors:
            found["errors"] = self.errors
        return found

    # As ifup and ifdown

    def up(self, _=None):
        """Set up."""
        self.autostart = True
        if self.state != "down":
            return
        self.state, self.errors = "setup", []
        request = {"interface": NAME, "options": self.options}
        self.bus.call("cpe-agent", "up", request, self._on_answer)

    def _on_answer(self, _, data):
        if data and "code" in data:
            self.errors.append({"subsystem": "lw4o6", "code": data["code"]})

    def down(self, _=None):
        """Take down."""
        self.autostart = False
        self._tear_down()

    def _tear_down(self):
        if self.state in ("up", "setup"):
            self.state = "teardown"
            self.bus.call("cpe-agent", "down", {"interface": NAME}, self._on_down)

    def _on_down(self, _status, _data):
        self._lose_link()
        self.state = "down"
        if self.autostart:
            self.up()

    # As protocol handlers

    def notify(self, request):
        """notify_proto."""
        arguments = request.arguments
        if self.state in ("teardown", "down"):
            raise UbusError(PERMISSION_DENIED)
        if arguments["action"] == ERROR:
            code, *text = arguments["error"]
            self.errors.append({"subsystem": "lw4o6", "code": code, "data": text})
        elif arguments["action"] == SET_UP_AGAIN:
            self._tear_down()
        elif arguments["link-up"]:
            self._build(arguments)
        elif self.state == "up":
            self._lose_link()
            self.state = "setup"

    def _build(self, update):
        self.updates += 1
        self._lose_link()
        device = update["ifname"]
        ip("link add %s type veth peer name %s" % (device, FAR_END))
        ip("link set %s up" % FAR_END)
        ip("link set %s mtu %d up" % (device, update["tunnel"]["mtu"]))
        for one in update["ipaddr"]:
            ip("addr add %s/%s dev %s" % (one["ipaddr"], one["mask"], device))
        for route in update["routes"]:
            ip("route add default dev %s src %s" % (device, route["source"].partition("/")[0]))
        self.update, self.state = update, "up"

    def _lose_link(self):
        if self.update:
            words = ["ip", "link", "del", FAR_END]
            subprocess.run(words, check=False, capture_output=True)  # others may have done it
        self.update = {}

    def configure(self, request):
        """Not netifd's: what 'uci set' and 'reload_config' would bring."""
        self.options = request.arguments["options"]
        if self.state != "down":
            self._tear_down()


class Services:
    """procd's object 'service': data by name."""

    def __init__(self):
        self._data = {}

    def methods(self):
        """For ubus."""
        name = ("name", STRING)
        return [
            Method("set", self._set, (name, ("instances", TABLE), ("data", TABLE))),
            Method("get_data", self._get_data, (name, ("type", STRING))),
            Method("delete", self._delete, (name,)),
        ]

    def _set(self, request):
        self._data[request.arguments["name"]] = request.arguments["data"]

    def _get_data(self, request):
        name = request.arguments["name"]
        return {name: self._data[name]} if name in self._data else {}

    def _delete(self, request):
        if self._data.pop(request.arguments["name"], None) is None:
            raise UbusError(NOT_FOUND)


def main(path):
    """Serve for ever."""
    with Ubus(path) as ubus:
        one = Interface(ubus.bus)
        ubus.bus.add_object(
            "network.interface." + NAME,
            [
                Method("status", one.status, ()),
                Method("up", one.up, ()),
                Method("down", one.down, ()),
                Method("configure", one.configure, (("options", TABLE),)),
            ],
        )
        ubus.bus.add_object(
            "network.interface",
            [
                Method("dump", lambda _: {"interface": [one.status()]}, ()),
                Method("notify_proto", one.notify, NOTIFICATION),
            ],
        )
        ubus.bus.add_object("service", Services().methods())
        while True:
            ubus.wait(3600000)


if __name__ == "__main__":
    main(sys.argv[1])
