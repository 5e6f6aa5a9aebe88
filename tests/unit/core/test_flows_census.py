"""How full the port sets are: what is counted of the kernel's octets, and what cannot hurt."""

import struct

from cpe_agent import flows, net, portset

SHARED = bytes([192, 0, 2, 3])
SETS = [portset.PortSet("192.0.2.3", 1024, 512), portset.PortSet("192.0.2.3", 4096, 256)]
TCP, UDP, ICMP, GRE, ESP = 6, 17, 1, 47, 50
NEW, ERROR, DONE, OVERRUN = 0x100, 2, 3, 4
INTERRUPTED = 0x10

# What Linux 6.18 wrote on a little-endian host, behind the netlink header.
CAPTURED = (
    # TCP from 198.51.100.1:40005 to the shared address's 1500, forwarded to 192.168.1.10:80
    "02000000340001801400018008000100c633640108000200c00002031c0002800500010006000000060002009c450000"
    "0600030005dc0000340002801400018008000100c0a8010a08000200c63364011c000280050001000600000006000200"
    "00500000060003009c45000008000300000001a8080008000000000008000c00147ca1a408000b000000000108000700"
    "00008c9f300004802c0001800500010001000000050002000a0000000500030000000000060004000300000006000500"
    "00000000",
    # ping from 192.168.1.12 to 203.0.0.3, with 1292 as its identifier outside
    "020000003c0001801400018008000100c0a8010c08000200cb0000032400028005000100010000000600040000070000"
    "050005000800000005000600000000003c0002801400018008000100cb00000308000200c00002032400028005000100"
    "0100000006000400050c0000050005000000000005000600000000000800030000000198080008000000000008000c00"
    "68a89e4008000b00000000010800070000008c9e",
    # UDP from 192.168.1.10 to the router's own port 53: no shared address in it
    "02000000340001801400018008000100c0a8010a08000200c0a801011c0002800500010011000000060002009c440000"
    "0600030000350000340002801400018008000100c0a8010108000200c0a8010a1c000280050001001100000006000200"
    "00350000060003009c4400000800030000000188080008000000000008000c006e891b7008000b000000000108000700"
    "00008c9e",
    # UDP from 192.168.1.10:40000 to 203.0.0.1:443, outside 1662
    "02000000340001801400018008000100c0a8010a08000200cb0000011c0002800500010011000000060002009c400000"
    "0600030001bb0000340002801400018008000100cb00000108000200c00002031c000280050001001100000006000200"
    "01bb000006000300067e00000800030000000198080008000000000008000c009e3f444408000b000000000108000700"
    "00008c9e",
    # GRE from outside, whose keys are where ports are
    "02000000340001801400018008000100c633640108000200c00002031c000280050001002f0000000600020000000000"
    "0600030000000000340002801400018008000100c000020308000200c63364011c000280050001002f00000006000200"
    "0000000006000300000000000800030000000188080008000000000008000c00e76d48d608000b000000000108000700"
    "0000001d",
    # UDP from 192.168.1.13 to a neighbour on the same address, 2500; outside 1170
    "02000000340001801400018008000100c0a8010d08000200c00002031c0002800500010011000000060002009c430000"
    "0600030009c40000340002801400018008000100c000020308000200c00002031c000280050001001100000006000200"
    "09c4000006000300049200000800030000000198080008000000000008000c00ca1b888d08000b000000000108000700"
    "00008c9e",
    # ESP from outside: no ports
    "02000000240001801400018008000100c633640108000200c00002030c00028005000100320000002400028014000180"
    "08000100c000020308000200c63364010c00028005000100320000000800030000000188080008000000000008000c00"
    "3354801d08000b00000000010800070000000257",
)


def message(kind, payload, flags=2):
    """A netlink message with its header and padding."""
    head = struct.pack(net.NATIVE + "IHHII", 16 + len(payload), kind, flags, 1, 0)
    return head + payload + b"\0" * (-len(payload) % 4)


def attribute(kind, data, nested=False):
    head = struct.pack(net.NATIVE + "HH", len(data) + 4, kind | (0x8000 if nested else 0))
    return head + data + b"\0" * (-len(data) % 4)


def one_side(kind, source, destination, protocol, ports, more=b""):
    if protocol == ICMP:
        identifier = struct.pack(">H", ports[0])
        ports = [attribute(4, identifier), attribute(5, b"\0"), attribute(6, b"\0")]
    else:
        ports = [attribute(2 + i, struct.pack(">H", port)) for i, port in enumerate(ports)]
    addresses = attribute(1, source) + attribute(2, destination)
    found = attribute(1, addresses, True)
    found += attribute(2, attribute(1, bytes([protocol])) + b"".join(ports), True)
    return attribute(kind, found + more, True)


def outgoing(protocol, host, port, place=(203, 0, 113, 1), to=443, more=b""):
    """A flow of 192.168.1.<host> that has an external port."""
    inside, outside = bytes([192, 168, 1, host]), bytes(place)
    there, back = ((7,), (port,)) if protocol == ICMP else ((40000, to), (to, port))
    body = one_side(1, inside, outside, protocol, there, more)
    body += one_side(2, outside, SHARED, protocol, back, more)
    return message(NEW, b"\2\0\0\0" + body + attribute(3, b"\0\0\1\x88"))


DONE_MESSAGE = message(DONE, bytes(4))


def counted(*messages, sets=SETS, top=8):
    census = flows.Census(sets)
    for one in messages:
        census.feed(one)
    return census.summary(top)


def ports_of(found):
    return {name: found["protocols"][name].get("ports") for name in flows.NAMES}


# What is counted


def test_the_request_is_a_dump_of_ipv4_flows():
    length, kind, flags = struct.unpack_from(net.NATIVE + "IHH", flows.request())
    assert (length, kind, flags) == (len(flows.request()), 0x101, 0x301)
    assert flows.request()[16:] == b"\2\0\0\0"


def test_what_a_kernel_wrote_is_read():
    if net.NATIVE == ">":
        return
    rows = [message(NEW, bytes.fromhex(text)) for text in CAPTURED]
    wide = [portset.PortSet("192.0.2.3", 1024, 1024)]
    found = counted(b"".join(rows) + DONE_MESSAGE, sets=wide)
    assert found["whole"] is True
    assert ports_of(found) == {"tcp": [1], "udp": [2], "icmp": [1], "other": None}
    assert [found["protocols"][name]["flows"] for name in flows.NAMES] == [1, 2, 1, 2]
    crowded = {name: found["protocols"][name].get("crowded") for name in flows.NAMES}
    assert crowded["tcp"] == {"address": "198.51.100.1", "port": 40005, "flows": 1}
    assert crowded["udp"] == {"address": "203.0.0.1", "port": 443, "flows": 1}
    assert crowded["icmp"] == {"address": "203.0.0.3", "flows": 1}
    assert crowded["other"] is None
    hosts = {one["address"]: (one["ports"], one["flows"]) for one in found["hosts"]}
    assert hosts == {
        "192.168.1.10": (2, 2),
        "192.168.1.12": (1, 1),
        "192.168.1.13": (1, 1),
        "192.0.2.3": (0, 2),
    }
    assert found["outside"] == 0


def test_a_port_counts_once_however_many_places_it_serves():
    rows = [outgoing(UDP, 10, 1024, (203, 0, 113, place)) for place in range(50)]
    found = counted(b"".join(rows), DONE_MESSAGE)
    assert ports_of(found)["udp"] == [1, 0]
    assert found["protocols"]["udp"]["flows"] == 50
    assert found["hosts"] == [{"address": "192.168.1.10", "ports": 1, "flows": 50}]


def test_protocols_and_sets_are_counted_apart():
    rows = [outgoing(TCP, 10, 1024 + number) for number in range(3)]
    rows += [outgoing(UDP, 10, 4096 + number) for number in range(4)]
    rows += [outgoing(ICMP, 10, port) for port in (1024, 1535, 4096, 4351)]
    found = counted(b"".join(rows) + DONE_MESSAGE)
    assert ports_of(found) == {"tcp": [3, 0], "udp": [0, 4], "icmp": [2, 2], "other": None}


def test_ports_beside_the_sets_are_told():
    rows = [outgoing(UDP, 10, port) for port in (1023, 1536, 4095, 4352, 65535, 0, 65535)]
    found = counted(b"".join(rows) + DONE_MESSAGE)
    assert found["outside"] == 6
    assert ports_of(found)["udp"] == [0, 0]
    assert found["hosts"][0]["ports"] == 0


def test_sets_of_two_addresses_are_told_apart():
    other = portset.PortSet("192.0.2.9", 1024, 512)
    rows = [outgoing(TCP, 10, 1030), outgoing(TCP, 10, 1031)]
    rows.append(outgoing(TCP, 10, 1030).replace(SHARED, bytes([192, 0, 2, 9])))
    found = counted(b"".join(rows) + DONE_MESSAGE, sets=[SETS[0], other])
    assert ports_of(found)["tcp"] == [2, 1]


def test_the_same_port_of_two_hosts_counts_for_the_first():
    found = counted(outgoing(TCP, 10, 1024), outgoing(TCP, 11, 1024, (203, 0, 113, 2)))
    assert ports_of(found)["tcp"] == [1, 0]
    assert [(one["address"][-2:], one["ports"], one["flows"]) for one in found["hosts"]] == [
        ("10", 1, 1),
        ("11", 0, 1),
    ]


def test_the_most_crowded_destination_is_never_underrated():
    """And overrated by no more than its bucket has strangers: few, of thousands."""
    census = flows.Census(SETS)
    for number in range(300):
        census.feed(outgoing(TCP, 10, 1024 + number, (198, 51, 100, 7), 80))
    for number in range(6000):
        place = (203, number % 7, number // 250, number % 250)
        census.feed(outgoing(TCP, 10, 1024 + number % 512, place))
    found = census.summary()["protocols"]["tcp"]
    assert found["flows"] == 6300
    crowded = found["crowded"]
    assert 300 <= crowded["flows"] <= 310
    assert (crowded["address"], crowded["port"]) == ("198.51.100.7", 80)


def test_a_crowd_of_one_protocol_does_not_show_in_another():
    rows = [outgoing(TCP, 10, 1024 + number) for number in range(300)]
    rows.append(outgoing(UDP, 10, 1024))
    found = counted(b"".join(rows), DONE_MESSAGE)["protocols"]
    assert found["tcp"]["crowded"]["flows"] == 300
    assert found["udp"]["crowded"]["flows"] == 1


def test_more_flows_to_one_place_than_a_counter_holds():
    rows = outgoing(TCP, 10, 1024) * 100
    census = flows.Census(SETS)
    for _ in range(656):
        census.feed(rows)
    crowded = census.summary()["protocols"]["tcp"]
    assert crowded["flows"] == 65600
    assert crowded["crowded"]["flows"] == 65535


def test_the_top_hosts_are_named_and_the_others_summed():
    rows = []
    for host in range(1, 21):
        for number in range(host):
            rows.append(outgoing(UDP, host, 1024 + host * 24 + number))
    found = counted(b"".join(rows), DONE_MESSAGE, top=3)
    assert [one["address"] for one in found["hosts"]] == [
        "192.168.1.20",
        "192.168.1.19",
        "192.168.1.18",
    ]
    total = sum([one["ports"] for one in found["hosts"]]) + found["rest"]["ports"]
    assert total == sum(ports_of(found)["udp"]) == 210
    assert found["rest"] == {"ports": 153, "flows": 153}


def test_more_hosts_than_are_told_apart_are_the_rest():
    census = flows.Census(SETS)
    for number in range(1000):
        row = outgoing(UDP, 10, 1024 + number % 512)
        source = bytes([192, 168, 1, 10])
        census.feed(row.replace(source, bytes([10, 0, number // 250, number % 250])))
    found = census.summary(top=1000)
    assert len(found["hosts"]) == 255
    assert found["rest"] == {"ports": 512 - 255, "flows": 745}


def test_a_row_of_another_form_says_the_same():
    """Flows in a zone have one more attribute in their tuples."""
    zone = attribute(3, b"\0\1")
    for protocol in (TCP, UDP, ICMP, GRE):
        plain = counted(outgoing(protocol, 10, 1100), DONE_MESSAGE)
        assert counted(outgoing(protocol, 10, 1100, more=zone), DONE_MESSAGE) == plain
        assert plain["whole"] is True


def test_without_sets_nothing_is_counted():
    found = counted(outgoing(TCP, 10, 1024), DONE_MESSAGE, sets=[])
    assert found["protocols"]["tcp"] == {"flows": 0, "ports": []}
    assert flows.fullness(found, []) == 0


# What is amiss


def test_a_dump_without_its_end_is_not_whole():
    assert counted(outgoing(TCP, 10, 1024))["whole"] is False
    assert counted(outgoing(TCP, 10, 1024), DONE_MESSAGE)["whole"] is True


def test_an_interrupted_dump_is_not_whole():
    row = bytearray(outgoing(TCP, 10, 1024))
    struct.pack_into(net.NATIVE + "H", row, 6, 2 | INTERRUPTED)
    found = counted(bytes(row), DONE_MESSAGE)
    assert found["whole"] is False
    assert ports_of(found)["tcp"] == [1, 0]
    assert counted(message(OVERRUN, b""), DONE_MESSAGE)["whole"] is False


def test_a_refusal_ends_it():
    census = flows.Census(SETS)
    assert census.feed(message(ERROR, struct.pack(net.NATIVE + "i", -1) + bytes(16))) is True
    assert census.errno == 1
    assert census.summary()["whole"] is False
    census = flows.Census(SETS)
    assert census.feed(message(DONE, struct.pack(net.NATIVE + "i", -12))) is True
    assert census.errno == 12


def test_an_error_without_a_number_ends_it():
    census = flows.Census(SETS)
    assert census.feed(message(ERROR, b"")) is True
    assert census.summary()["whole"] is False


def test_nothing_behind_the_end_is_read():
    found = counted(DONE_MESSAGE + outgoing(TCP, 10, 1024))
    assert found["protocols"]["tcp"]["flows"] == 0


def test_octets_cut_anywhere_never_raise():
    for row in (outgoing(TCP, 10, 1024), outgoing(ICMP, 10, 1024), outgoing(ESP, 10, 1024)):
        for length in range(len(row)):
            assert counted(row[:length])["protocols"]["tcp"]["flows"] == 0
            # The same, but with a header that fits what is left.
            whole = struct.pack(net.NATIVE + "I", length) + row[4:length]
            counted(whole, DONE_MESSAGE)


def test_every_octet_may_be_anything():
    for protocol in (TCP, ICMP, ESP):
        good = outgoing(protocol, 10, 1024)
        for place in range(len(good)):
            for octet in (0, 1, 0x7F, 0xFF):
                row = bytearray(good)
                row[place] = octet
                counted(bytes(row), DONE_MESSAGE)


def test_a_length_of_nothing_does_not_hang():
    assert counted(bytes(64))["whole"] is False
    assert counted(b"")["whole"] is False


# What is made of it


def elsewhere(protocol, count):
    """Flows that have a port each, and a destination each."""
    rows = [
        outgoing(protocol, 10, 1024 + number, (203, 0, number // 250, number % 250))
        for number in range(count)
    ]
    return b"".join(rows)


def test_the_sets_are_as_full_as_udp_has_ports_in_use():
    assert flows.fullness(counted(elsewhere(UDP, 384), DONE_MESSAGE), SETS) == 50
    assert flows.fullness(counted(DONE_MESSAGE), SETS) == 0


def test_connections_fill_the_sets_towards_one_place_alone():
    """A port serves again towards another place."""
    for protocol in (TCP, ICMP):
        assert flows.fullness(counted(elsewhere(protocol, 384), DONE_MESSAGE), SETS) < 2
        rows = [outgoing(protocol, 10, 1024 + number) for number in range(192)]
        assert flows.fullness(counted(b"".join(rows), DONE_MESSAGE), SETS) == 25


def test_sets_are_never_fuller_than_full():
    """The count of a destination may be too large."""
    assert flows.fullness(counted(outgoing(TCP, 10, 1024) * 800, DONE_MESSAGE), SETS) == 100


def test_counting_takes_a_hundredth_of_the_time():
    assert flows.pause(0) == 10000
    assert flows.pause(1500) == 150000


# The dump


class Clock:
    """Each look at it takes some ms."""

    def __init__(self, step):
        self.time, self.step = 0, step

    def now(self):
        self.time += self.step
        return self.time


class Kernel:
    """A socket that answers what it was given, then errors; and the module that makes it."""

    NATIVE, EAGAIN = net.NATIVE, net.EAGAIN

    def __init__(self, answers, refuses=None):
        self.answers, self.refuses = list(answers), refuses
        self.sent, self.closed = [], 0

    def netlink_socket(self, protocol):
        if self.refuses:
            raise OSError(self.refuses, "no")
        return self

    def setblocking(self, flag):
        assert flag is False

    def send(self, octets):
        self.sent.append(octets)

    def recv(self, size):
        if not self.answers:
            raise OSError(net.EAGAIN, "nothing waits")
        answer = self.answers.pop(0)
        if isinstance(answer, int):
            raise OSError(answer, "error %d" % answer)
        return answer

    def close(self):
        self.closed += 1


def dump(kernel, step=1):
    flows.net = kernel
    try:
        return flows.Dump(SETS, Clock(step))
    finally:
        flows.net = net


def test_a_dump_is_read_in_slices():
    kernel = Kernel([outgoing(TCP, 10, 1024 + number) for number in range(30)] + [DONE_MESSAGE])
    one = dump(kernel)
    assert kernel.sent == [flows.request()]
    steps = 1
    while not one.step():
        steps += 1
    assert steps == 4  # of ten reads of a ms each
    assert one.error == ""
    assert (kernel.closed, one.sock) == (1, None)
    assert one.census.summary()["whole"] is True
    assert 30 <= one.spent <= 45
    assert one.step() is True
    one.close()
    assert kernel.closed == 1


def test_a_dump_waits_for_what_has_not_come():
    kernel = Kernel([outgoing(TCP, 10, 1024)])
    one = dump(kernel)
    assert one.step() is False
    kernel.answers = [DONE_MESSAGE]
    assert one.step() is True
    assert one.census.summary()["protocols"]["tcp"]["flows"] == 1


def test_a_kernel_that_says_no_more_is_not_waited_for_for_ever():
    kernel = Kernel([outgoing(TCP, 10, 1024)])
    one = dump(kernel, step=100)
    for _ in range(200):
        if one.step():
            break
    assert "not counted in 10 s" in one.error
    assert kernel.closed == 1
    assert one.census.summary()["whole"] is False


def test_lost_octets_and_refusals_end_a_dump_with_a_reason():
    for answer, reason in (
        (105, "cannot read"),  # ENOBUFS
        (b"", "without an end"),
        (message(ERROR, struct.pack(net.NATIVE + "i", -1) + bytes(16)), "error 1"),
    ):
        kernel = Kernel([outgoing(TCP, 10, 1024), answer, DONE_MESSAGE])
        one = dump(kernel)
        assert one.step() is True
        assert reason in one.error, one.error
        assert kernel.closed == 1
        assert one.census.summary()["whole"] is False


def test_without_a_socket_there_is_a_reason():
    one = dump(Kernel([], refuses=93))
    assert one.step() is True
    assert one.error.startswith("cannot ask")
    assert one.census.summary()["whole"] is False


class Answers:
    """netlink, with what the kernel answers."""

    def __init__(self, *answers):
        self.answers = answers

    def ask(self, protocol, kind, flags, payload):
        if not self.answers:
            raise OSError(1, "no")
        return list(self.answers)


def asked(function, *answers):
    real = flows.netlink.ask
    flows.netlink.ask = Answers(*answers).ask
    try:
        return function()
    finally:
        flows.netlink.ask = real


def test_the_table_tells_how_full_it_is():
    answer = b"\2\0\0\0" + attribute(1, b"\0\0\x3e\x80") + attribute(2, b"\0\4\0\0")
    assert asked(flows.table_use, answer) == (16000, 262144)
    assert asked(flows.table_use, b"\2\0\0\0" + attribute(1, b"\0")) is None
    assert asked(flows.table_use, b"") is None
    assert asked(flows.table_use) is None


def test_flows_that_found_no_port_are_summed_over_the_processors():
    one = b"\2\0\0\0" + attribute(2, b"\0\0\1\0") + attribute(9, b"\0\0\1\xdc")
    two = b"\2\0\0\1" + attribute(9, b"\0\0\0\4")
    assert asked(flows.flows_lost, one, two) == 480
    assert asked(flows.flows_lost, b"\2\0\0\0") is None
    assert asked(flows.flows_lost) is None
