"""How long an idle flow keeps its port, by option flow_timeouts. Pure: nftables text out.

What lives here: the numbers, and why they are these. nft gives them to flows that leave by the
softwire, one by one ('ct timeout'), so that other uplinks keep what the kernel's switches
(net.netfilter.nf_conntrack_*_timeout*) say, and nothing has to be put back. It needs a kernel with
CONFIG_NF_CONNTRACK_TIMEOUT; nft has no such policies for ICMP.

The rules stand in the chain of the source NAT, which sees the first packet of a flow only: packets
that follow cost nothing more.
"""

from collections import namedtuple

WORDS = KEEP, SMALL = "keep", "small"  # that the option may have

# name: of nft's object. match: rule's condition. seconds: by nft's name of the state. Other numbers
# need another name: nft leaves an object that is there as it is, without a word.
Policy = namedtuple("Policy", ("name", "protocol", "match", "seconds"))

# The least that is allowed: a port set is small, and an idle flow keeps a port from others.
_UDP = 120  # RFC 4787 REQ-5
# REQ-5 (a) lets a well-known port have less. An answer that takes longer than this nobody awaits;
# a host that resolves by itself asks hundreds of servers, with a new port for each question.
_DNS = 15
_ESTABLISHED = 7440  # 2 h 4 min: RFC 5382 REQ-5
_CLOSING = 240  # RFC 5382 REQ-5; also after RST: RFC 7857 2.2
# Half open: RFC 7857 2.1 lets an operator choose less than 240. These are the kernel's own.
_SYN_SENT, _SYN_RECV = 120, 60
_POLICIES = {
    KEEP: (),
    SMALL: (
        Policy("small_dns", "udp", "udp dport 53", {"unreplied": _DNS, "replied": _DNS}),
        Policy("small_udp", "udp", "udp dport != 53", {"unreplied": _UDP, "replied": _UDP}),
        Policy(
            "small_tcp",
            "tcp",
            "meta l4proto tcp",
            {
                "syn_sent": _SYN_SENT,
                "syn_recv": _SYN_RECV,
                "established": _ESTABLISHED,
                "fin_wait": _CLOSING,
                "close_wait": _CLOSING,
                "last_ack": _CLOSING,
                "time_wait": _CLOSING,
                "close": _CLOSING,
            },
        ),
    ),
}


def objects(word, prefix=""):
    """{name: definition} of nft's objects 'ct timeout' that rules() needs. word: KEEP or SMALL.
    prefix: of the names."""
    return {prefix + one.name: _definition(one) for one in _POLICIES[word]}


def _definition(policy):
    states = ["%s: %d" % item for item in sorted(policy.seconds.items())]
    text = "{ protocol %s; l3proto ip; policy = { %s }; }"
    return text % (policy.protocol, ", ".join(states))


def rules(word, prefix=""):
    """Rules to stand before those of the source NAT, for flows that leave by the softwire. For KEEP
    there are none."""
    text = '%s ct timeout set "%s%s"'
    return [text % (one.match, prefix, one.name) for one in _POLICIES[word]]
