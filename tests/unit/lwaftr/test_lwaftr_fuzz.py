"""100 000 random and mutated datagrams into the server (issue 2, "Shows" 5)."""

import random

from lwaftr_helpers import (
    CLIENT,
    E1,
    E3,
    E6,
    E7,
    E9A,
    E11,
    E15,
    NONCE,
    NOW,
    PORT,
    ask,
    client_address,
    make_server,
)

from cpe_agent.pcp import wire

COUNT = 100000
OTHERS = [client_address(number) for number in range(100, 150)]
SEEDS = [
    E1,
    E3,
    E6,
    E7,
    E9A,
    E11,
    E15,
    E1[:60],
    E1[:60] + wire.option(2),
    E1 + wire.option(64, b"abc"),
    E1 + wire.option(1, CLIENT) + wire.option(3, bytes(20)),
    E1[:1] + b"\2" + E1[2:60] + bytes(20),
]


def mutated(rng):
    """(datagram, source): random, or one of the seeds changed here and there."""
    source = rng.choice((CLIENT, rng.choice(OTHERS)))
    if rng.random() < 0.1:
        return rng.randbytes(rng.choice((0, 1, 2, 24, 60, 72, 1100, 1104, 2000))), source
    data = bytearray(rng.choice(SEEDS))
    if rng.random() < 0.9:
        data[8:24] = source
    if rng.random() < 0.5 and len(data) >= 36:
        data[24:36] = rng.randbytes(12)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    shape = rng.random()
    if shape < 0.1:
        del data[rng.randrange(len(data)) :]
    elif shape < 0.2:
        data += rng.randbytes(rng.choice((1, 4, 8, 100)))
    return bytes(data), source


def victims_state(server):
    """Everything the victim owns, to the last detail that matters."""
    return [
        (m.protocol, m.nonce, m.internal, m.size, m.external, m.due_ms, m.binding.expiry_ms)
        for m in server.mappings()
        if m.client == CLIENT and m.nonce == NONCE and m.binding in server.bindings
    ]


def check_answer(out, data, source):
    assert (out.address, out.port) == (source, PORT)
    assert wire.HEADER_LENGTH <= len(out.data) <= wire.MAX_LENGTH and len(out.data) % 4 == 0
    assert out.data[0] == wire.VERSION and out.data[1] == data[1] | wire.RESPONSE_BIT


def test_hundred_thousand_datagrams():
    rng = random.Random(7753)
    pool = {"addresses": ["192.0.2.0/28"], "set_size": 256}
    server = make_server(pool, max_known_clients=20)
    ask(server)
    now, before, justified = NOW, victims_state(server), 0
    for _ in range(COUNT):
        data, source = mutated(rng)
        for out in server.receive(now, data, source, PORT):
            check_answer(out, data, source)
        after = victims_state(server)
        if after != before:
            assert source == CLIENT == data[8:24] and data[24:36] == NONCE
            assert data[:2] == b"\2\1"
            justified += 1
            before = after
        if rng.random() < 0.01:
            # Time passes: what expires does so by itself.
            now += rng.randrange(60000)
            server.handle_timer(now)
            if not victims_state(server):
                ask(server, now)
            before = victims_state(server)
    # The seeds hold valid requests too, so something must have happened.
    assert justified > 100
    # Bounded by the pool and the quota of 4 sets, however much was asked.
    assert server.mapping_count() <= 51 * 4 * 256
    assert len(server.bindings) == server.mapping_count()
    assert server.known_clients() <= 20
    assert len(server._expiry._heap) <= 2 * server.mapping_count() + 130


def test_a_stranger_changes_nothing_even_with_the_nonce():
    rng = random.Random(6887)
    server = make_server({"addresses": ["192.0.2.0/28"], "set_size": 256})
    ask(server)
    before = victims_state(server)
    for _ in range(5000):
        data = bytearray(rng.choice((E1, E3, E6, E7, E15)))
        for _ in range(rng.randrange(3)):
            data[rng.randrange(36, len(data))] = rng.randrange(256)
        source = rng.choice(OTHERS)
        if rng.random() < 0.5:
            data[8:24] = source
        server.receive(NOW, bytes(data), source, PORT)
        assert victims_state(server) == before
