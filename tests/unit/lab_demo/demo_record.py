"""A small story as demo.py keeps it, made up, for tests of the report."""

import copy

import demo_messages

from cpe_agent.pcp import wire

CLIENT = bytes.fromhex("20010db8c0de00000000000000000002")
ROUTER = "2001:db8:c0de::2"
NONCE = bytes(range(12))
GRANTED = {"address": "192.0.2.1", "first_port": 4096, "size": 1024}


def entry(number, t_ms, direction, data, peer=ROUTER):
    """One entry of the lwAFTR's log."""
    return {
        "number": number,
        "t_ms": t_ms,
        "direction": direction,
        "address": peer,
        "port": 5351,
        "hex": data.hex(),
    }


def request(lifetime=3600, port=0):
    data = wire.MapData(NONCE, 0, 1, port, wire.ANY_V4)
    return wire.map_request(CLIENT, lifetime, data, wire.port_set_option(65535, 1))


def grant(port=4096, size=1024, epoch=5, result=0):
    data = wire.MapData(NONCE, 0, 1, port, wire.V4_PREFIX + bytes((192, 0, 2, 1)))
    return wire.map_response(result, 3600, epoch, data, wire.port_set_option(size, port))


def announce(epoch):
    return wire.response(wire.OP_ANNOUNCE, 0, 0, epoch)


def messages():
    log = [
        entry(0, 500, "out", announce(0), "ff02::1"),
        entry(1, 750, "out", announce(0), "ff02::1"),
        entry(2, 3000, "in", request()),
        entry(3, 3001, "out", grant()),
        entry(4, 4000, "in", request(), "2001:db8:c0de:1::1"),
        entry(5, 5000, "in", b"\2\1garbled"),
    ]
    return [demo_messages.decode(one, 1.0) for one in log]


_RESULT = {
    "granted": GRANTED,
    "router": ROUTER,
    "agent_version": "0.1.0",
    "runtime": "micropython 1.25.0",
    "kernel": "6.12",
    "versions": {"qemu": "7.2"},
    "default_after_loss": {"address": "192.0.2.1", "first_port": 1024, "size": 1024},
    "ports_used": {"tcp": 2, "udp": 1, "icmp": 1},
    "same_after_power_cut": True,
    "same_after_lwaftr_loss": True,
    **dict.fromkeys(("tcp_ok", "udp_ok", "icmp_ok", "http_ok"), True),
    **dict.fromkeys(("flows_surviving_renewal", "flows_surviving_lwaftr_loss"), True),
    **dict.fromkeys(("power_cut_to_grant_s", "lwaftr_loss_to_grant_s", "cpe_reboot_s"), 3.5),
    **dict.fromkeys(("packets_inside_set", "captured_inside_set"), 321),
    **dict.fromkeys(("packets_outside_set", "captured_outside_set", "guards_dropped"), 0),
    **dict.fromkeys(("packets_while_unknown", "network_events_during_renewals"), 0),
    **dict.fromkeys(("flash_writes_per_renewal", "flash_sectors_per_renewal"), 0.0),
    "flash_writes_first_grant": 9,
    "foreign_packets_sent": 1,
    "foreign_packets_counted": 1,
    "renewals": 3,
    **dict.fromkeys(("first_request_ms", "first_request_ms_after_power_cut"), 400),
    "response_to_nat_ms": 300,
    "agent_rss_kb": 3900,
    "agent_private_kb": 2400,
    "router_memory_kb": 56000,
    "total_s": 12.0,
}


def record():
    """A fresh story to change."""
    return copy.deepcopy(
        {
            "result": _RESULT,
            "started": 1700000000,
            "steps": [
                {"title": "Boot", "at": 0.0, "seconds": 3.0, "details": ["in <3 s"]},
                {"title": "Grant", "at": 3.0, "seconds": 9.0, "details": []},
            ],
            "addresses": {
                "lan": "192.168.1.10",
                "router_lan": "192.168.1.1",
                "router": ROUTER,
                "lwaftr": "2001:db8:ffff::1",
                "internet": "198.51.100.1",
            },
            "events": [{"at": 4.0, "text": "power cut"}, {"at": 5.0, "text": "lwAFTR forgets"}],
            "agent_log": [{"at": 4.0, "text": "granted <all>"}],
            "neighbours": [
                {
                    "client": "2001:db8:c0de:1::1",
                    "address": "192.0.2.1",
                    "first_port": 1024,
                    "size": 1024,
                }
            ],
            "used_ports": {"tcp": [[4100, 4101]], "udp": [[4101, 4101]], "icmp": [[5119, 5119]]},
            "per_second": [[5.0, 10, 20]],
            "messages": messages(),
        }
    )
