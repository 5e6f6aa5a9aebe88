"""A softwire that netifd asks for: 'config interface' with option proto 'lw4o6'.

The options are those of /etc/config/network, named as OpenWrt names them there; what they mean, and
what is allowed, is config.py's. netifd's protocol handler hands them over by ubus.
"""

import json
from collections import namedtuple

from cpe_agent import config, log, store

# name: of the interface in /etc/config/network. softwire: config.Softwire. release: give the set
# back at 'ifdown'. zone, tunlink: for netifd, or empty.
Interface = namedtuple("Interface", ("name", "softwire", "release", "zone", "tunlink"))

DEVICE = "lw4-"  # begins the name of a softwire's device; the firewall's guards know them by it

# What netifd calls an option, where we call it otherwise.
_OTHER_NAMES = {"peeraddr": "aftr", "ip6addr": "source"}
# Ours outside of the softwire's options, and netifd's own business.
_APART = ("release", "zone", "tunlink")
_NETIFDS = ("proto", "defaultroute", "peerdns", "metric", "renew", "auto")
_LARGEST = 8192  # octets of a record


def read(name, texts):
    """Interface of what netifd knows of one: {option: text, number or list}. Raises ConfigError."""
    where = "interface '%s'" % name
    if not _is_name(name):
        raise config.ConfigError("%s: allowed: 1 to 32 letters, digits and '_'" % where)
    plain = {}
    for option in texts:
        value = texts[option]
        if option not in _APART + _NETIFDS and value not in ("", []):
            plain[_OTHER_NAMES.get(option, option)] = _text(where, option, value)
    plain["device"] = (DEVICE + name)[:15]
    try:
        softwire = config.read_softwire(where, name, plain)
    except config.ConfigError as error:
        raise config.ConfigError(_in_their_words(str(error))) from None
    release, zone, tunlink = [_word(where, option, texts.get(option, "")) for option in _APART]
    return Interface(name, softwire, release in ("1", "true", "on", "yes"), zone, tunlink)


def _in_their_words(text):
    for theirs in _OTHER_NAMES:
        text = text.replace("option %s " % _OTHER_NAMES[theirs], "option %s " % theirs)
    return text


def _is_name(name):
    """True for what a script may take for a word."""
    if not isinstance(name, str) or not 1 <= len(name) <= 32:
        return False
    for char in name:
        if char != "_" and not (ord(char) < 128 and (char.isalpha() or char.isdigit())):
            return False
    return True


def _text(where, option, value):
    """As a user would write it: netifd makes numbers and flags of what looks like them."""
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return [_text(where, option, one) for one in value]
    if not isinstance(value, str):
        raise config.ConfigError("%s: option %s is no text" % (where, option))
    return value


def _word(where, option, value):
    """As _text, for what cannot be a list: netifd is handed it as it is."""
    value = _text(where, option, value)
    if isinstance(value, list):
        raise config.ConfigError("%s: '%s' is a list; write 'option %s'" % (where, option, option))
    return value


def join(settings, wanted):
    """The config with the softwire of an interface.Interface, or without one. Raises
    ConfigError."""
    if settings.agent.backend != "openwrt":
        return settings
    softwire = wanted.softwire if wanted else None
    config.check_together(settings.mappings, softwire)
    return config.Config(
        softwire, settings.mappings, settings.forwards, settings.agent, settings.warnings
    )


class Record:
    """What netifd asked for last, in RAM: a restarted agent goes on with it."""

    def __init__(self, run_dir):
        """run_dir: RAM."""
        self._file = store.File(run_dir + "/interface", _LARGEST)

    def keep(self, name, texts):
        """Note it. Raises StoreError."""
        self._file.write(json.dumps([name, texts]))

    def remove(self):
        """It is not asked for any more."""
        self._file.remove()

    def recall(self):
        """Interface, or None."""
        text = self._file.read()
        if not text:
            return None
        try:
            name, texts = json.loads(text)
            return read(name, texts)
        # RuntimeError: nested too deep for CPython.
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            log.warning("%s is not understood: %s" % (self._file.path, error))
            return None
