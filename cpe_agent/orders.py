"""Mappings by command: kept in RAM, so that they outlive the agent, but no reboot.

The file holds what 'cpe-agent map' was told, as a user would write it in the config.
"""

import json

from cpe_agent import config, log, store
from cpe_agent.ports import Ports

_WORDS = (
    "protocol",
    "internal_port",
    "ports",
    "external_port",
    "external_address",
    "internal_address",
    "family",
    "server",
    "lifetime",
    "filter",
)


class Orders:
    """The mappings of commands."""

    def __init__(self, place, run_dir):
        """place: keeper.Place."""
        self._file = store.File(run_dir + "/mappings", 16384)
        self._place = place.in_ram()
        self._texts = {}  # name: {option: text or list of text}

    def load(self, configured, softwire=None):
        """Ports of what is in the file. configured: tuple of config.Mapping, which come first, as
        does the config.Softwire."""
        found = []
        for name, texts in self._read():
            try:
                mapping = config.read_mapping(name, texts)
                self._check(configured, softwire, mapping)
            except config.ConfigError as error:
                log.warning("mapping '%s' by command is dropped: %s" % (name, error))
                continue
            self._texts[name] = texts
            found.append(self._ports(mapping))
        return found

    def add(self, request, configured, softwire=None):
        """Ports for the words of a command. Raises config.ConfigError and store.StoreError."""
        texts = {word: request[word] for word in _WORDS if request.get(word)}
        if not _is_sound(texts):
            raise config.ConfigError("options are text, or lists of it")
        name = "%s%s" % (texts.get("protocol"), texts.get("internal_port"))
        mapping = config.read_mapping(name, texts)
        self._check(configured, softwire, mapping)
        self._texts[name] = texts
        try:
            self._write()
        except store.StoreError:
            del self._texts[name]
            raise
        return self._ports(mapping)

    def remove(self, name):
        """Forget one."""
        del self._texts[name]
        try:
            self._write()
        except store.StoreError as error:
            log.warning(str(error))

    def why_not_beside(self, configured, softwire=None):
        """Why these mappings and this softwire of a config cannot be beside the mappings of
        commands, or None."""
        try:
            self._check(configured, softwire)
        except config.ConfigError as error:
            return "%s ('cpe-agent unmap' ends those of commands)" % error
        return None

    def _check(self, configured, softwire, *more):
        config.check_together(tuple(configured) + self._mappings() + more, softwire)

    def _mappings(self):
        return tuple([config.read_mapping(name, self._texts[name]) for name in self._texts])

    def _ports(self, mapping):
        self._place.memory.live = ["mapping " + name for name in self._texts]
        return Ports(mapping, self._place)

    def _read(self):
        """(name, texts) of the file; nothing if it is none of ours."""
        try:
            content = json.loads(self._file.read() or "{}")
            return [(name, content[name]) for name in sorted(content) if _is_sound(content[name])]
        # RuntimeError: nested too deep for CPython.
        except (ValueError, TypeError, LookupError, RuntimeError):
            return []

    def _write(self):
        self._file.write(json.dumps(self._texts))


def _is_sound(texts):
    """True for options as a user would write them."""
    if not isinstance(texts, dict):
        return False
    for value in texts.values():
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, str):
                return False
    return True
