"""The command line. argparse is not on the router, so a small reader of words does."""

import json
import sys
import time

from cpe_agent import control, status, store

USAGE = """\
usage: cpe-agent [--config FILE] [--state-dir DIR] [--run-dir DIR] COMMAND

Gets this router's port set from the operator's lwAFTR by PCP (RFC 7753), brings up the IPv4-in-IPv6
softwire, and keeps the NAT inside the set. Keeps other PCP mappings, too.

commands:
  run                run the agent in the foreground; ending it leaves the line up
  status [--json]    show address, port set, server, next action, guards, mappings and errors
  renew              ask the server now; after 'release', start again
  release            take the line down, give the set back, leave no trace
  reload             take up a changed config file
  usage [--json]     count how many ports are in use: per protocol, port set and LAN host
  usage --history [--json]
                     plot how full the port sets have been in the last 24 hours
  more               ask for one more port set for the softwire, if option sets allows it
  map PROTOCOL PORT  ask for a mapping of an internal port: tcp, udp or all; until 'unmap' or a
                     reboot (a 'config mapping' section outlives that)
      [--ports N] [--external-port P] [--external-address A] [--family 4|6] [--internal-address A]
      [--server S]... [--lifetime SECONDS] [--filter 'PREFIX [PORT]']...
  unmap NAME         give such a mapping back; 'map' and 'status' tell the name
  learn INTERFACE dhcpv6|dhcpv4 [HEX]...
                     for scripts of DHCP clients: the PCP servers of option 86, a HEX for each
                     instance, or of option 158; without HEX, forget them
  check              read the config file and say what is wrong with it
  print-nft          show the nftables rules that are in place
  print-nft ADDRESS FIRST SIZE
                     show the rules for that set, without an agent
  help, version

options:
  --config FILE      default /etc/config/cpe-agent
  --state-dir DIR    flash, survives a power cut; default /etc/cpe-agent
  --run-dir DIR      RAM; default /var/run/cpe-agent

exit codes: 0 done; 1 failed, or no port set is held (without a softwire: not every mapping);
2 wrong usage or config; 3 no agent is running
"""

OK, FAILED, USAGE_ERROR, NOT_RUNNING = 0, 1, 2, 3
_DEFAULTS = {
    "--config": "/etc/config/cpe-agent",
    "--state-dir": "/etc/cpe-agent",
    "--run-dir": "/var/run/cpe-agent",
}
_SOCKET = "/control"  # in the run-dir
_JSON, _HISTORY = "--json", "--history"
_WORDS = {  # of commands that take any
    "status": ([], [_JSON]),
    "usage": ([], [_JSON], [_HISTORY], [_HISTORY, _JSON], [_JSON, _HISTORY]),
}
_RELEASE_PATIENCE = 60  # s; four transmissions, and a little
_MAP_PATIENCE = 15  # s; three transmissions


class UsageError(Exception):
    """The words make no command."""


def entry():
    """Console script."""
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


def main(words):
    """Run one command; returns the exit code."""
    try:
        options, command, arguments = _read(words)
    except UsageError as error:
        _complain("%s; 'cpe-agent help' shows what there is" % error)
        return USAGE_ERROR
    if command in ("help", "version"):
        sys.stdout.write(USAGE if command == "help" else status.VERSION + "\n")
        return OK
    return _COMMANDS[command](options, arguments)


def _parse(words, allowed):
    """(plain words, {option: its values}). allowed: names of options. Raises UsageError."""
    plain, given = [], {}
    index = 0
    while index < len(words):
        name, sign, value = words[index].partition("=")
        if name in allowed:
            if not sign:
                index += 1
                if index == len(words):
                    raise UsageError("%s needs a value" % name)
                value = words[index]
            given.setdefault(name, []).append(value)
        else:
            plain.append(words[index])
        index += 1
    return plain, given


def _folder(name, path):
    """The path as we go on with it. Raises UsageError."""
    if not path.startswith("/"):
        raise UsageError("%s '%s' must begin with '/'" % (name, path))
    path = path.rstrip("/")
    length, room = len(path.encode()), control.LONGEST_PATH - len(_SOCKET)
    if name == "--run-dir" and length > room:
        raise UsageError("%s is %d octets long; allowed: %d" % (name, length, room))
    return path


def _read(words):
    """(options, command, arguments). Raises UsageError."""
    options = dict(_DEFAULTS)
    plain, given = _parse(words, _DEFAULTS)
    for name, values in given.items():
        is_file = name == "--config"
        options[name] = values[-1] if is_file else _folder(name, values[-1])
    if not plain or plain[0] in ("-h", "--help"):
        return options, "help", []
    command, arguments = plain[0].lstrip("-") if plain[0] == "--version" else plain[0], plain[1:]
    if command not in _COMMANDS and command not in ("help", "version"):
        raise UsageError("'%s' is no command" % command)
    allowed = _WORDS.get(command, ([],))
    if command == "print-nft" and len(arguments) == 3:
        return options, command, arguments
    if command in ("map", "unmap", "learn"):
        return options, command, arguments
    if command not in ("help", "version") and arguments not in allowed:
        raise UsageError("'%s' takes no '%s'" % (command, " ".join(arguments)))
    return options, command, arguments


def _complain(text):
    sys.stderr.write("cpe-agent: %s\n" % text)


def _paths(options):
    from cpe_agent.agent import Paths

    return Paths(options["--config"], options["--state-dir"], options["--run-dir"])


def _socket(options):
    return options["--run-dir"] + _SOCKET


def _settings(paths):
    """(Config to run on, what is wrong with the file), after complaining if there is no Config."""
    from cpe_agent import agent

    settings, error = agent.load_config(paths)
    if settings is None:
        settings = agent.last_good_config(paths)
    if settings is None:
        _complain("%s: %s" % (paths.config, error))
    return settings, error


def _run(options, _):
    # Imported here: the other commands need neither the core nor a backend, and a router is slow.
    from cpe_agent import agent, log, net

    paths = _paths(options)
    try:
        store.make_directory(paths.run_dir)
        store.make_directory(paths.state_dir)
        control.ask(paths.socket, "status")
        _complain("an agent is running already (%s)" % paths.socket)
        return FAILED
    except store.StoreError as error:
        _complain(str(error))
        return FAILED
    except control.NotRunning:
        pass
    settings, error = _settings(paths)
    if settings is None:
        return USAGE_ERROR
    net.ignore_broken_pipes()
    for warning in settings.warnings:
        log.warning(warning)
    running = agent.Agent(settings, paths)
    if error:
        running.complain_about_config(error)
    try:
        running.open()
    except control.NoSocket as error:
        _complain(str(error))
        return FAILED
    running.run()
    return OK


def _ask(options, command, arguments=None):
    """The agent's answer, or None after saying that there is none."""
    try:
        answer = control.ask(_socket(options), command, arguments)
    except control.NotRunning as error:
        _complain("%s; start one with 'cpe-agent run'" % error)
        return None
    if "error" in answer:
        _complain(answer["error"])
    return answer


def _status(options, arguments):
    answer = _ask(options, "status")
    if answer is None:
        return NOT_RUNNING
    if arguments:
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        sys.stdout.write("\n".join(status.lines(answer)) + "\n")
    return OK if status.is_held(answer) else FAILED


def _renew(options, _):
    answer = _ask(options, "renew")
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return FAILED
    sys.stdout.write("the request goes out in %d ms\n" % answer["in_ms"])
    return OK


def _reload(options, _):
    answer = _ask(options, "reload")
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return USAGE_ERROR
    sys.stdout.write("configuration taken up\n" if answer["changed"] else "nothing has changed\n")
    return OK


def _release(options, _):
    try:
        answer = control.ask(_socket(options), "release")
    except control.NotRunning:
        return _release_without_agent(options)
    if "error" in answer:
        _complain(answer["error"])
        return FAILED
    sys.stdout.write("nothing is used any more; giving back what servers hold for us ...\n")
    for _ in range(_RELEASE_PATIENCE * 4):
        answer = _ask(options, "status")
        if answer is None:
            return NOT_RUNNING
        if status.is_released(answer):
            return _released(answer["timings"].get("release_confirmed"))
        time.sleep(0.25)
    _complain("still not confirmed; see 'cpe-agent status'")
    return FAILED


def _released(confirmed):
    if confirmed:
        sys.stdout.write("released: the server confirmed it\n")
    else:
        sys.stdout.write(
            "released here; the server was silent or refused, the mapping ends by itself\n"
        )
    return OK


def _release_without_agent(options):
    """The line may be up with no agent: be one for as long as it takes."""
    from cpe_agent import agent

    paths = _paths(options)
    try:
        store.make_directory(paths.run_dir)
    except store.StoreError as error:
        _complain(str(error))
        return FAILED
    settings, _ = _settings(paths)
    if settings is None:
        return USAGE_ERROR
    sys.stdout.write("no agent is running; doing it without one ...\n")
    alone = agent.Agent(settings, paths)
    confirmed = alone.release_alone(_RELEASE_PATIENCE * 1000)
    if alone.line and "backend" in alone.line.errors:
        _complain("the line could not be taken down, so the set was not given back; try again")
        return FAILED
    if confirmed is None:
        _complain("the set could not be given back; the network is cleaned up")
        return FAILED
    return _released(confirmed)


def _check(options, _):
    from cpe_agent import config

    path = options["--config"]
    try:
        with open(path) as file:
            settings = config.parse(file.read())
    except OSError as error:
        _complain("cannot read %s: %s" % (path, error))
        return USAGE_ERROR
    except ValueError as error:
        _complain("%s: %s" % (path, error))
        return USAGE_ERROR
    for warning in settings.warnings:
        sys.stdout.write("warning: %s\n" % warning)
    sys.stdout.write("%s is good\n" % path)
    return OK


def _print_nft(options, arguments):
    if arguments:
        return _print_nft_for(options, *arguments)
    answer = _ask(options, "print-nft")
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return FAILED
    sys.stdout.write(answer["text"])
    return OK


def _print_nft_for(options, *words):
    from cpe_agent import config, plan
    from cpe_agent.backends import kernel

    try:
        port_set = _read_set(*words)
        with open(options["--config"]) as file:
            softwire = config.parse(file.read()).softwire
        if softwire is None:
            raise ValueError("%s: there is no 'config softwire'" % options["--config"])
    except (OSError, ValueError) as error:
        _complain(str(error))
        return USAGE_ERROR
    mtu = softwire.mtu or 1460
    sys.stdout.write(plan.nat_text(softwire, port_set, mtu, kernel.protocols()))
    return OK


def _read_set(address, first, size):
    """PortSet of three words. Raises ValueError."""
    from cpe_agent import portset

    if not (portset.is_number(first) and portset.is_number(size)):
        raise ValueError("'print-nft' takes an IPv4 address, a first port and a number of ports")
    reason = portset.why_unusable(portset.octets(address), int(first), int(size))
    if reason:
        raise ValueError(reason)
    return portset.PortSet(address, int(first), int(size))


_MAP_OPTIONS = {
    "--ports": "ports",
    "--external-port": "external_port",
    "--external-address": "external_address",
    "--family": "family",
    "--internal-address": "internal_address",
    "--server": "server",
    "--lifetime": "lifetime",
    "--filter": "filter",
}


def _map(options, arguments):
    try:
        request = _read_mapping(arguments)
    except UsageError as error:
        _complain("%s; 'cpe-agent help' shows what there is" % error)
        return USAGE_ERROR
    answer = _ask(options, "map", request)
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return USAGE_ERROR
    return _watch_mapping(options, answer["name"])


def _read_mapping(words):
    """{option: text or list of text}. Raises UsageError."""
    plain, given = _parse(words, _MAP_OPTIONS)
    if len(plain) != 2:
        raise UsageError("'map' takes a protocol and an internal port")
    request = {}
    for name, texts in given.items():
        request[_MAP_OPTIONS[name]] = texts[0] if len(texts) == 1 else texts
    request["protocol"], request["internal_port"] = plain
    return request


def _watch_mapping(options, name):
    """Wait a while for the answer of the PCP server."""
    for _ in range(_MAP_PATIENCE * 4):
        answer = _ask(options, "status")
        if answer is None:
            return NOT_RUNNING
        for one in answer["mappings"]:
            if one["name"] != name:
                continue
            if "address" in one:
                sys.stdout.write("%s: %s\n" % (name, status.external(one)))
                return OK
            if one["errors"]:
                _complain("%s: %s" % (name, "; ".join(one["errors"])))
                return FAILED
        time.sleep(0.25)
    _complain("%s: no answer yet; see 'cpe-agent status'" % name)
    return FAILED


def _usage(options, arguments):
    answer = _ask(options, "history" if _HISTORY in arguments else "usage")
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return FAILED
    if _JSON in arguments:
        text = json.dumps(answer)
    else:
        text = "\n".join(_usage_lines(answer, _HISTORY in arguments))
    sys.stdout.write(text + "\n")
    return OK


def _usage_lines(answer, is_history):
    if not is_history:
        return status.usage_lines(answer)
    from cpe_agent import plot

    return plot.lines(answer)


def _more(options, _):
    answer = _ask(options, "more")
    if answer is None:
        return NOT_RUNNING
    if "error" in answer:
        return FAILED
    sys.stdout.write("asked; 'cpe-agent status' shows what comes of it\n")
    return OK


def _unmap(options, arguments):
    if len(arguments) != 1:
        _complain("'unmap' takes a name; 'cpe-agent status' shows them")
        return USAGE_ERROR
    answer = _ask(options, "unmap", {"name": arguments[0]})
    if answer is None:
        return NOT_RUNNING
    return FAILED if "error" in answer else OK


def _learn(options, arguments):
    from cpe_agent import choice, config

    if len(arguments) < 2 or arguments[1] not in (choice.DHCPV6, choice.DHCPV4):
        _complain("'learn' takes an interface, dhcpv6 or dhcpv4, and what the option holds in hex")
        return USAGE_ERROR
    try:
        config.check_device(arguments[0])
    except ValueError as error:
        _complain("'%s' is no name of an interface; %s" % (arguments[0], error))
        return USAGE_ERROR
    try:
        store.make_directory(options["--run-dir"])
        learned = choice.Learned(options["--run-dir"])
        reasons = learned.put(arguments[0], arguments[1], arguments[2:])
    except store.StoreError as error:
        _complain(str(error))
        return FAILED
    for reason in reasons:
        _complain(reason)
    try:
        control.ask(_socket(options), "learned")
    except control.NotRunning:
        pass  # it will find the file
    return FAILED if reasons else OK


_COMMANDS = {
    "run": _run,
    "status": _status,
    "renew": _renew,
    "release": _release,
    "reload": _reload,
    "check": _check,
    "print-nft": _print_nft,
    "map": _map,
    "unmap": _unmap,
    "more": _more,
    "usage": _usage,
    "learn": _learn,
}
