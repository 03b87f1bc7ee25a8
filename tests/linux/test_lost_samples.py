"""What the XDP program notes of packets that find no cell: how many, when, and the head of some."""

from __future__ import annotations

import time

import numpy as np
import pytest

from wirecap.linux import bpf, clock, xdp_program
from wirecap.linux.asm import assemble
from wirecap.linux.xdp_program import (
    HEADER_BYTES,
    LOST,
    SAMPLE_AT,
    SAMPLE_BITS,
    SAMPLE_BYTES,
    SAMPLE_HEADER,
    SAMPLE_LOST,
    SAMPLE_TIME,
    SAMPLE_WORDS,
    SAMPLED,
    SAMPLES,
)

TIMESTAMPS = 1024
pytestmark = pytest.mark.live


@pytest.fixture(params=[False, True], ids=["native", "generic"])
def lose(request):
    """A program without a cell to offer: runs it on a packet; and the queue's words, and its rows of samples."""
    counters, sockets = bpf.Map(bpf.PERCPU_ARRAY, xdp_program.COUNTER_BYTES, 1), bpf.Map(bpf.XSKMAP, 4, 1)
    ledger = xdp_program.make_ledger(1, TIMESTAMPS)
    code = xdp_program.program(
        counters.fd, sockets.fd, xdp_program.Ledger(ledger, 0, TIMESTAMPS), 1792, xdp_program.best_clock(), True,
        shared=request.param,
    )  # fmt: skip
    program = bpf.Program(assemble(code))
    words = np.frombuffer(ledger.mapped(), np.int64)[: xdp_program.ledger_words(TIMESTAMPS)]
    yield program.run, words, words[-SAMPLES * SAMPLE_WORDS :].reshape(SAMPLES, SAMPLE_WORDS)
    for part in (program, ledger, counters, sockets):
        part.close()


@pytest.mark.parametrize("size", [14, 42, 60, 64, 200])
def test_the_first_lost_packet_is_kept(lose, size):
    """Its head, as many bytes as are there in whole words of four, and the time at which it was lost."""
    run, words, rows = lose
    packet = np.random.default_rng(size).bytes(size)
    before = time.time_ns()
    code, _ = run(packet)
    after = time.time_ns()
    assert code == bpf.XDP_DROP
    assert words[LOST] == 1
    (row,) = rows[rows[:, SAMPLE_TIME] > 0]
    assert row[SAMPLE_LOST] == 1
    kept = min(size - size % 4, HEADER_BYTES)
    assert row[SAMPLE_BYTES] == kept
    assert row[SAMPLE_HEADER:].tobytes()[:kept] == packet[:kept]
    offset = clock.offset_ns(xdp_program.best_clock())
    assert before - 10**7 <= row[SAMPLE_AT] + offset <= after + 10**7  # two clocks, compared
    assert row[SAMPLE_TIME] == row[SAMPLE_AT] >> SAMPLE_BITS


def test_many_are_counted_by_their_time(lose):
    """Rows in order of time have counts that grow, up to all but the last few; all are in LOST."""
    run, words, rows = lose
    run(bytes(60), 200_000)
    assert words[LOST] == 200_000
    used = rows[rows[:, SAMPLE_TIME] > 0]
    used = used[np.argsort(used[:, SAMPLE_TIME])]
    assert len(used) > 1
    assert (np.diff(used[:, SAMPLE_LOST]) > 0).all()
    assert 0 <= 200_000 - used[-1, SAMPLE_LOST] < SAMPLED
    assert (used[:, SAMPLE_AT] >> SAMPLE_BITS == used[:, SAMPLE_TIME]).all()
