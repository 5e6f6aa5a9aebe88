"""The running lease, in RAM: lets a restarted agent adopt the line that its forerunner left up.

Gone after a reboot, as it must be: its times are ms since boot. Flash holds what outlives that
(store.py). A file that cannot be read is no lease: the agent then asks as after a power cut.
"""

import json
import os

from cpe_agent import portset
from cpe_agent.pcp.mapping import Grant
from cpe_agent.portset import PortSet


def save(path, key, grant):
    """Write the lease. key: text that names server, source and mapping. Raises OSError."""
    port_set = grant.port_set
    fields = [key, port_set.address, port_set.first, port_set.size]
    fields += [grant.first_internal, grant.lifetime, grant.granted, grant.expires]
    with open(path + ".new", "w") as file:
        file.write(json.dumps(fields))
    os.rename(path + ".new", path)


def load(path, key, now):
    """The Grant of a lease that runs on at now (ms), under that key; else None."""
    try:
        with open(path) as file:
            fields = json.loads(file.read())
        bound_to, address, first, size = fields[:4]
        first_internal, lifetime, granted, expires = [int(field) for field in fields[4:]]
        reason = portset.why_unusable(portset.octets(address), first, size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    except (ArithmeticError, RuntimeError):  # 1e999; brackets nested too deep for CPython
        return None
    if reason or bound_to != key or not granted <= now < expires:
        return None
    return Grant(PortSet(address, first, size), first_internal, lifetime, granted, expires)


def remove(path):
    """Leave no trace."""
    for name in (path, path + ".new"):
        try:
            os.unlink(name)
        except OSError:
            pass  # it was not there
