"""Which PCP server a mapping is asked of: by config, DHCP, host names, lwAFTR and default router.

Knows what there is; pcp/servers.py decides. Addresses are 16 octets, times ms.
"""

import json
import os

from cpe_agent import address, discovery, log, net, netlink, store
from cpe_agent.pcp import servers, wire
from cpe_agent.pcp.client import Client

DHCPV6 = "dhcpv6"
DHCPV4 = "dhcpv4"
_INTERFACES = 16  # that DHCP may have told of servers on
_PROBE_PATIENCE = 10000  # ms


class Directory:
    """What is known about PCP servers on this machine; the keepers share it."""

    def __init__(self, sessions, run_dir, on_change):
        """sessions: session.Sessions. on_change() is called when a host name has new addresses."""
        self._sessions = sessions
        self._learned = Learned(run_dir)
        self._on_change = on_change
        self._resolver = None
        self._names = set()

    def addresses(self, name):
        """Addresses of a host name, as far as is known; it is kept resolved from now on."""
        if self._resolver is None:
            # Imported here: most configs have no names, and a router is slow.
            from cpe_agent.resolver import Resolver

            timer = self._sessions.clock
            self._resolver = Resolver(
                self._sessions.poller, timer.now, os.urandom, lambda _: self._on_change()
            )
        self._names.add(name)
        try:
            self._resolver.add(name)
        except ValueError as error:
            log.error("option server: %s" % error)
        return self._resolver.addresses(name)

    def keep_only(self, options):
        """Forget the names that none of these options (config.Softwire or Mapping) has."""
        if self._resolver:
            wanted = {where for one in options for _, where in one.server}
            for name in self._names - wanted:
                self._resolver.remove(name)
            self._names &= wanted

    def why_unknown(self, name):
        """Why a host name has no addresses, or None."""
        return self._resolver.error(name) if self._resolver else None

    def learned(self):
        """servers.Server of all that DHCP told of."""
        return self._learned.servers()

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        return self._resolver.get_timer() if self._resolver else None

    def handle_timer(self, now):
        """Ask for names what is due."""
        if self._resolver:
            self._resolver.handle_timer(now)

    def restart(self):
        """The network changed."""
        if self._resolver:
            self._resolver.restart()


class Choice:
    """The server for one mapping."""

    def __init__(self, options, family, directory, sessions):
        """options: config.Softwire or config.Mapping. family: 4 or 6, of the default router that
        may be asked."""
        self._options = options
        self._family = family
        self._directory = directory
        self._sessions = sessions
        self._selection = servers.Selection(os.urandom, _in_order)
        self._reachable = ()  # all addresses that may be asked
        self._probe_sockets = []

    @property
    def address(self):
        """16 octets of the server to ask now, or None."""
        current = self._selection.current
        return current.address if current else None

    @property
    def interface(self):
        """Index of the interface that the server was learned on, or 0."""
        current = self._selection.current
        return current.server.interface if current else 0

    @property
    def better(self):
        """Address of a better server that is back, or None."""
        return self._selection.better.address if self._selection.better else None

    def identity(self, known=()):
        """16 octets that name the server, whichever of its addresses is asked."""
        return servers.identity(self._selection.current.server, known)

    def refresh(self, now):
        """Look again at what there is. True if another server is to be asked now."""
        found = servers.candidates(self._servers())
        self._reachable = [one for server in found for one in server.addresses]
        return self._selection.set(now, found)

    def stay_with(self, now, identity, asked):
        """Begin with the server of a lease that runs on, at the address that was asked, if they are
        still there to ask."""
        found = servers.candidates(self._servers())
        for server in found:
            if identity not in server.addresses or self.address == asked:
                continue
            known = asked in server.addresses
            if known or self.address not in server.addresses:
                start = (asked,) if known else server.addresses
                self._selection.set(now, [servers.Server(start, server.origin, server.interface)])
                self._selection.answered_by(now, self.address)
                self._selection.set(now, found)

    def names(self):
        """(name, why) of host names that stand for no address; why: text, or None while the
        question is under way."""
        names = [where for _, where in self._options.server if isinstance(where, str)]
        unknown = [name for name in names if not self._directory.addresses(name)]
        return [(name, self._directory.why_unknown(name)) for name in unknown]

    def unreachable(self, now):
        """There is no way to the address. True if another server is to be asked now."""
        if not [one for one in self._reachable if one != self.address and source_of(one)]:
            return False  # nor to any other: this machine is offline
        return self._selection.unreachable(now, self.address)

    def report(self):
        """servers.Selection, to tell it how the current address fares."""
        return self._selection

    def timer(self):
        """When handle_timer is due, in ms, or None."""
        return self._selection.get_timer()

    def handle_timer(self, now):
        """True if another server is to be asked now; better servers are probed."""
        changed = self._selection.handle_timer(now)
        for target in self._selection.probes():
            self._probe(target)
        return changed

    def _probe(self, target):
        try:
            path = netlink.path_to(target.address, target.server.interface)
            device = path.device if target.server.interface else None
            Probe(target.address, path, device, self._sessions, self._selection.probe_answered)
        except OSError:
            return  # no way there: it is not back

    def _servers(self):
        options = self._options
        found = []
        for origin, where in options.server:
            known = (where,)
            if isinstance(where, str):
                known = self._directory.addresses(where)
            found.append(servers.Server(self._usable(known), origin, 0))
        for server in self._directory.learned():
            usable = self._usable(server.addresses)
            if usable:
                found.append(servers.Server(usable, server.origin, server.interface))
        return found + self._routers() if options.default_router else found

    def _usable(self, addresses):
        """A softwire's server has to see its IPv6 address."""
        if getattr(self._options, "aftr", None) is None:
            return tuple(addresses)
        return tuple([one for one in addresses if not wire.is_v4(one)])

    def _routers(self):
        from cpe_agent import routers  # only where it is wanted: a router is slow

        try:
            router = routers.default_router(self._family)
        except OSError:
            return []
        if router is None:
            return []
        return [servers.Server((router.address,), servers.ROUTER, router.interface)]


def source_of(destination):
    """16 octets that the kernel would send from, or None."""
    try:
        return netlink.path_to(destination).source
    except OSError:
        return None


def _in_order(addresses):
    """By RFC 6724, where there is something to sort."""
    if len(addresses) < 2:
        return tuple(addresses)
    from cpe_agent.resolver import order

    return order(addresses, source_of)


class Probe:
    """One question to a server whether it is there: an ANNOUNCE request, which changes nothing."""

    def __init__(self, server, path, device, sessions, on_answer):
        """device: name of the only interface to use, or None. on_answer(now, server) is called if
        an answer comes. Raises OSError."""
        self._server = server
        self._sessions = sessions
        self._on_answer = on_answer
        self._client = Client(server, path.source, os.urandom)
        self._socket = net.request_socket(path.source, server, scope=path.index, device=device)
        self.end_at = sessions.clock.now() + _PROBE_PATIENCE
        sessions.poller.add(self._socket, self._on_datagram)
        sessions.add_probe(self)
        self._client.probe(sessions.clock.now())
        for datagram in self._client.datagrams():
            self._send(datagram)

    def _send(self, datagram):
        try:
            self._socket.send(datagram)
        except OSError:
            self.end()

    def _on_datagram(self, sock):
        now = self._sessions.clock.now()
        try:
            received = net.receive(sock)
        except OSError:
            self.end()  # ICMP said that nobody listens there
            return
        if received:
            self._client.receive(now, *received)
        if self._client.epoch.server is not None:
            self.end()
            self._on_answer(now, self._server)

    def end(self):
        """No answer is awaited any more."""
        if self.end_at is not None:
            self.end_at = None
            self._sessions.poller.remove(self._socket)
            self._sessions.remove_probe(self)


class Learned:
    """Servers that DHCP clients told of, in RAM: {interface: {dhcpv6 or dhcpv4: hex texts}}."""

    def __init__(self, run_dir):
        self._file = store.File(run_dir + "/learned")

    def servers(self):
        """servers.Server of all interfaces that are there."""
        found = []
        options = self._read()
        for interface in sorted(options):
            index = _index(interface)
            if index is None:
                continue
            told = options[interface]
            found += discovery.dhcpv6_servers(told.get(DHCPV6, []), index)[0]
            for option in told.get(DHCPV4, []):
                found += discovery.dhcpv4_servers(option, index)[0]
        return found

    def put(self, interface, kind, texts):
        """Take what a DHCP client says now: hex digits of each option; none to forget. Returns
        reasons why some is ignored, for people. Raises store.StoreError."""
        options = self._read()
        told = options.get(interface, {})
        told[kind] = list(texts)
        options[interface] = told
        kept = {name: options[name] for name in options if any(options[name].values())}
        if len(kept) > _INTERFACES:
            return ["more than %d interfaces" % _INTERFACES]
        self._file.write(json.dumps(kept))
        if kind == DHCPV6:
            return discovery.dhcpv6_servers(texts)[1]
        return [reason for text in texts for reason in discovery.dhcpv4_servers(text)[1]]

    def _read(self):
        try:
            options = json.loads(self._file.read() or "{}")
        except (ValueError, RuntimeError):  # RuntimeError: nested too deep for CPython
            return {}
        return options if _is_sound(options) else {}


def _is_sound(options):
    """True for what put() has written."""
    if not isinstance(options, dict):
        return False
    for told in options.values():
        if not isinstance(told, dict):
            return False
        for texts in told.values():
            if not isinstance(texts, list) or [one for one in texts if not isinstance(one, str)]:
                return False
    return True


def _index(interface):
    """Index of an interface by its name, or None. The name was checked (config.device)."""
    try:
        with open("/sys/class/net/%s/ifindex" % interface) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def text(found):
    """An address for people, or what there is instead."""
    return address.text(found) if found else "none known"
