"""The running lease, in RAM: lets a restarted agent adopt the line that its forerunner left up.

Gone after a reboot, as it must be: its times are ms since boot. Flash holds what outlives that
(store.py). A file that cannot be read is no lease: the agent then asks as after a power cut.
"""

import binascii
import json
import os

from cpe_agent import address, portset
from cpe_agent.pcp.mapping import Grant
from cpe_agent.portset import PortSet

_LARGEST = 4096  # octets


def key(source, server, protocol, internal_port, third_party=None):
    """Text that names a mapping. source, server: 16 octets; third_party: too, or None."""
    addresses = binascii.hexlify(source + server + (third_party or b"")).decode()
    return "%s %d %d" % (addresses, protocol, internal_port)


def save(path, bound_to, grant, asked=None):
    """Write the lease. bound_to: key() of the mapping. asked: 16 octets of the server's address
    that gave it, or None for the one in the key. Raises OSError."""
    port_set = grant.port_set
    fields = [bound_to, port_set.address, port_set.first, port_set.size]
    fields += [grant.first_internal, grant.lifetime, grant.granted, grant.expires]
    fields.append(binascii.hexlify(asked).decode() if asked else None)
    with open(path + ".new", "w") as file:
        file.write(json.dumps(fields))
    os.rename(path + ".new", path)


def load(path, wanted, now):
    """The Grant of a lease that runs on at now (ms), of the mapping with that key(); else None."""
    try:
        with open(path) as file:
            fields = json.loads(file.read(_LARGEST))
        bound_to, where, first, size = fields[:4]
        first_internal, lifetime, granted, expires = [int(field) for field in fields[4:8]]
        reason = portset.why_unusable(address.octets(where), first, size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except (ArithmeticError, RuntimeError):  # 1e999; brackets nested too deep for CPython
        return None
    if reason or bound_to != wanted or not granted <= now < expires:
        return None
    return Grant(PortSet(where, first, size), first_internal, lifetime, granted, expires)


def end(path):
    """When a lease ends, in ms; None if there is none."""
    try:
        with open(path) as file:
            return int(json.loads(file.read(_LARGEST))[7])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except (ArithmeticError, RuntimeError):  # as in load()
        return None


def parties(path):
    """(source, server, its address that was asked) of a lease, each 16 octets, or None."""
    try:
        with open(path) as file:
            fields = json.loads(file.read(_LARGEST))
        octets = binascii.unhexlify(fields[0].split(" ")[0])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):
        return None
    if len(octets) not in (32, 48):
        return None
    return octets[:16], octets[16:32], _asked(fields) or octets[16:32]


def _asked(fields):
    """16 octets, or None: older versions did not write it."""
    try:
        octets = binascii.unhexlify(fields[8])
    except (ValueError, LookupError, TypeError):
        return None
    return octets if len(octets) == 16 else None


def remove(path):
    """Leave no trace."""
    for name in (path, path + ".new"):
        try:
            os.unlink(name)
        except OSError:
            pass  # it was not there
