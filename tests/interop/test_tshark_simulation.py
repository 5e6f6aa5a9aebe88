"""The simulator's conversations as Wireshark reads them: every message, and none malformed."""

import pytest

from cpe_agent.pcp import wire
from tests.sim import capture
from tests.support.tshark import tshark_pcp_report


@pytest.fixture(scope="module")
def conversations(tmp_path_factory):
    """(datagrams, tshark's report on them) per sample."""
    found = []
    for seed in capture.SAMPLES:
        path = tmp_path_factory.mktemp("captures") / ("simulation-%d.pcap" % seed)
        datagrams, _ = capture.conversation(seed)
        capture.write(path, datagrams)
        found.append((datagrams, tshark_pcp_report(path)))
    return found


def test_tshark_reads_every_message_of_the_samples(conversations):
    for datagrams, report in conversations:
        assert report.malformed == []
        assert len(report.messages) == len(datagrams) > 100


def test_tshark_reads_what_was_sent(conversations):
    for datagrams, report in conversations:
        for sent, read in zip(datagrams, report.messages):
            data = sent[5]
            answer = bool(data[1] & wire.RESPONSE_BIT)
            assert read["opcode"] == str(data[1] & ~wire.RESPONSE_BIT)
            assert read["r"] in (str(int(answer)), str(answer))
            lifetime = read["lifetime_rsp" if answer else "lifetime_req"]
            assert lifetime == str(int.from_bytes(data[4:8], "big"))
            if answer:
                assert read["result_code"] == str(data[3])
                assert read["epoch_time"] == str(int.from_bytes(data[8:12], "big"))


def test_the_samples_have_each_kind_of_message(conversations):
    """Requests, grants, refusals, deletions and announcements, or the samples show too little."""
    kinds = set()
    for datagrams, _ in conversations:
        for *_, data in datagrams:
            deletion = int.from_bytes(data[4:8], "big") == 0
            kinds.add((data[1], data[3] and "refused", deletion and data[1] == wire.OP_MAP))
    answer = wire.OP_MAP | wire.RESPONSE_BIT
    announcement = wire.OP_ANNOUNCE | wire.RESPONSE_BIT
    assert kinds >= {
        (wire.OP_MAP, 0, False),
        (wire.OP_MAP, 0, True),
        (answer, 0, False),
        (answer, "refused", False),
        (announcement, 0, False),
    }
