"""The linux backend where it cannot have its way: what was there stays, and a person is told."""

import shutil

from tests.unit.shell import rig


def links(link):
    return link.cpe.run(["ip", "-br", "link"]).stdout


def test_a_device_that_is_not_ours_is_left_alone(link, make_peer, make_agent):
    """Somebody gives the uplink's name for the softwire: it must not be deleted."""
    make_peer(rig.grant())
    before = links(link)
    agent = make_agent(backend="linux", device="wan")
    agent.start()
    text = agent.wait_error("wan is there already, and is a veth device, no softwire")
    assert "set option device to another name" in text
    assert text.count("wan is there already") == 1
    done = agent.cli("release")
    assert done.returncode == 1
    assert "wan is there already" in done.stderr
    assert links(link) == before
    agent.end()
    agent.process = None
    done = agent.cli("release")
    assert "wan is there already" in done.stderr
    assert done.returncode == 1
    assert links(link) == before


def break_tool(agent, name, condition):
    """Put a tool in front of the real one, that fails for a condition in shell."""
    agent.tools.mkdir()
    real = shutil.which(name)
    tool = agent.tools / name
    tool.write_text(
        '#!/bin/sh\nif %s; then echo broken; exit 1; fi\nexec %s "$@"\n' % (condition, real)
    )
    tool.chmod(0o755)


def test_rules_that_nft_does_not_take_let_no_softwire_come_up(link, make_peer, make_agent):
    make_peer(rig.grant())
    agent = make_agent(backend="linux")
    break_tool(agent, "nft", '[ "$1" = -f ] && grep -q snat "$2"')
    agent.start()
    text = agent.wait_error("'nft -f' failed: broken")
    assert "what was there before is there again; trying again in 5 s" in text
    assert "lw4o6" not in links(link)
    assert link.cpe.run(["nft", "list", "tables"]).stdout == ""


def test_a_softwire_that_fails_half_way_leaves_no_rules_behind(link, make_peer, make_agent):
    make_peer(rig.grant())
    agent = make_agent(backend="linux")
    break_tool(agent, "ip", "grep -qs 'link add' \"$2\"")
    agent.start()
    text = agent.wait_error("failed: broken")
    assert "what was there before is there again; trying again in 5 s" in text
    assert "lw4o6" not in links(link)
    assert link.cpe.run(["nft", "list", "tables"]).stdout == ""


def test_a_line_that_cannot_be_taken_down_is_not_given_back(link, make_peer, make_agent):
    """Somebody else would get the ports while we still send from them."""
    peer = make_peer(rig.grant())
    agent = make_agent(backend="linux")
    break_tool(agent, "nft", '[ "$1" = -f ]')
    done = agent.cli("release")
    assert done.returncode == 1
    assert "'nft -f' failed: broken" in done.stderr
    assert "the line could not be taken down, so the set was not given back" in done.stderr
    assert peer.quiet(0.3)
