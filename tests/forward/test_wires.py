"""Forwarding on the memory NIC: cells in transmission, back-pressure, choices, and where every packet went."""

from __future__ import annotations

import time

import dpkt
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import wirecap
from rig import Gate, Rig, check_identity, counted, flow_frames, number_of, selection_of, until
from wire_rig import PATIENT_NS, WireRig, check_cells
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.table import bind
from wirecap.kernels.base.jit import PURE
from wirecap.source.wires import Output, WireTable

pytestmark = pytest.mark.kernel


def settled(rig: WireRig, packets: int) -> None:
    """Wait until so many packets have left or were dropped, then stop."""
    until(lambda: rig.ended() >= packets)
    rig.stop()


def take(rig: WireRig, packets: int) -> list[int]:
    """Transmit until so many packets have left all wires together; returns how many left each."""
    taken = [0] * len(rig.sent)

    def more() -> bool:
        for wire in range(len(taken)):
            taken[wire] += rig.transmit(wire)
        return sum(taken) >= packets

    until(more)
    return taken


def test_packets_leave_whole_and_in_order():
    """What arrives on a queue leaves on its wire, byte for byte, in the order of arrival."""
    given_packets = [counted(number, 60 + number % 900) for number in range(300)]
    with WireRig(M=8, R=16) as rig:
        rig.run_kernel()
        for packet in given_packets:
            rig.inject(0, [packet])
            if rig.engine.pool.queues[0] and not len(rig.sent[0]) % 50:
                time.sleep(0)
        settled(rig, len(given_packets))
        lost = rig.engine.summary().total("dropped")
        rig.check(len(given_packets))
    if not lost:
        assert rig.sent == [given_packets]
    else:
        numbers = [int.from_bytes(packet[:8], "big") for packet in rig.sent[0]]
        assert numbers == sorted(set(numbers))


def test_cells_return_to_their_home_pool():
    """Many times as many packets as there are cells pass through, so that cells in transmission come home."""
    total = 400 if PURE else 4000
    with WireRig(queues=2, M=4, R=4) as rig:  # both queues on one wire
        rig.run_kernel()
        for first in range(0, total, 4):
            for queue in range(2):
                rig.inject(queue, flow_frames(4, first=first))
            until(lambda first=first: rig.ended() >= 2 * first + 8)
        settled(rig, 2 * total)
        assert rig.drops() == {}
        rig.check(2 * total)
        assert rig.packets == 2 * total


def test_a_wire_that_stands_still_holds_the_cells_of_its_ring_and_no_more():
    """With a dead wire the capture goes on: what does not fit the ring is dropped as tx_ring_full."""
    with WireRig(M=8, R=16, tx_entries=16, patience_ns=1_000_000) as rig:
        for first in range(0, 160, 8):
            rig.inject(0, flow_frames(8, first=first))
            until(lambda first=first: rig.ended() + 16 >= first + 8)
        until(lambda: rig.drops().get("tx_ring_full") == 160 - 16)
        rig.stop()
        assert rig.drops() == {"tx_ring_full": 144, "tx_unfinished": 16}
        assert rig.forwarded == 0
        rig.check(160)


def test_a_dead_wire_costs_patience_once():
    """Only the first chunk waits for a ring that stands still; ten others, which would take 30 s, do not."""
    with WireRig(M=8, R=16, tx_entries=8, patience_ns=3_000_000_000) as rig:
        rig.inject(0, flow_frames(16))
        until(lambda: rig.drops().get("tx_ring_full") == 8)
        begin = time.monotonic()
        for first in range(16, 96, 8):
            rig.inject(0, flow_frames(8, first=first))
            until(lambda first=first: rig.drops().get("tx_ring_full", 0) >= first)
        assert time.monotonic() - begin < 25
        rig.transmit(0)
        rig.inject(0, flow_frames(4, first=96))
        take(rig, 4)
        settled(rig, 100)
        rig.check(100)
        assert rig.packets == 8 + 4


def test_a_dead_output_does_not_stop_the_others():
    """Of a fan-out's outputs one stands still: the others get all their packets."""
    total = 200 if PURE else 2000
    with WireRig(outputs=3, output_by="packet", M=8, R=32, tx_entries=16, patience_ns=1_000_000) as rig:
        sent = 0

        def left_the_others() -> int:
            rig.transmit(1)
            rig.transmit(2)
            return len(rig.sent[1]) + len(rig.sent[2])

        while sent < total:
            rig.inject(0, flow_frames(12, first=sent))
            sent += 12
            until(lambda sent=sent: left_the_others() == sent // 3 * 2)
        until(lambda: rig.ended() + 16 >= sent)
        rig.stop()
        assert rig.packets == len(rig.sent[1]) + len(rig.sent[2]) == sent // 3 * 2
        assert rig.drops() == {"tx_ring_full": sent // 3 - 16, "tx_unfinished": 16}
        rig.check(sent)


@wirecap.handler
def drops_odd(packet, state):
    if packet[49] & 1:
        packet.drop()


def test_filters_and_handlers_decide():
    """filtered_out, by_handler and forwarded are the parts of what arrived, and the right packets leave."""
    with WireRig([bind(drops_odd)], M=8, R=32, selection=selection_of("udp[0:2] < 1124")) as rig:
        rig.run_kernel()
        rig.inject(0, flow_frames(200))
        until(lambda: rig.ended() == 200)
        rig.stop()
        assert rig.engine.summary().total("filtered_out") == 100
        assert rig.drops() == {"by_handler": 50}
        assert [number_of(frame) for frame in rig.sent[0]] == list(range(0, 100, 2))
        rig.check(200)


HEADERS = bytes.fromhex("0200000000010200000000020800 4500002e00000000401166b0 0a0000010a000002 03e807d0001a")
UNFINISHED, FINISHED = 0x1400 + 0x3 + 17 + 26, 0xDFFF  # the pseudo-header's sum; RFC 768's checksum over zeros
assert dpkt.in_cksum(bytes.fromhex("0a0000010a0000020011001a03e807d0001a") + bytes(20)) == FINISHED


@wirecap.handler
def keeps_finished(packet, state):
    if packet.udp.checksum != FINISHED:
        packet.drop()


@wirecap.chunk_handler
def python_keeps_finished(chunk):
    chunk.drop([number for number in range(len(chunk)) if bytes(chunk[number])[40:42] != FINISHED.to_bytes(2, "big")])


@pytest.mark.parametrize("handler", [keeps_finished, python_keeps_finished])
@pytest.mark.parametrize("unfinished", [True, False])
def test_handlers_get_finished_checksums(handler, unfinished):
    """What a local stack left to its device is finished before the handlers, where that was asked for."""
    frames = [HEADERS + value.to_bytes(2, "big") + bytes(18) for value in (UNFINISHED, FINISHED)]
    with WireRig([bind(handler)], unfinished=unfinished) as rig:
        rig.run_kernel()
        rig.inject(0, frames)
        settled(rig, 2)
        assert rig.sent[0] == [frames[1]] * (1 + unfinished)
        summary = {"packets": {}, "per_queue": []}
        rig.forwarder.report(summary)
        assert summary["packets"]["checksums_finished"] == unfinished
        rig.check(2)


def test_frames_that_the_nic_does_not_take_have_a_name():
    """A frame longer than the MTU, an Ethernet header and a VLAN tag is dropped as tx_too_long."""
    with WireRig(mtu=100) as rig:
        rig.run_kernel()
        rig.inject(0, [counted(0, 118), counted(1, 119)])
        settled(rig, 2)
        assert rig.drops() == {"tx_too_long": 1}
        assert [len(frame) for frame in rig.sent[0]] == [118]
        rig.check(2)


def test_offloading_reorders_and_says_so():
    """A buddy sends a chunk before an earlier one: the packets that leave late are counted, none is lost."""
    total = 480
    with WireRig([Paced(4000.0)], queues=2, M=8, R=64, T=5, advanced=True, tx_entries=1024) as rig:
        rig.run_kernel()
        rig.inject(0, flow_frames(total))
        until(lambda: rig.ended() == total)
        rig.stop()
        numbers = [number_of(frame) for wire in rig.sent for frame in wire]
        assert sorted(numbers) == list(range(total))
        late = rig.forwarder.reordered()
        overtaken = sum(number < max(numbers[:place], default=-1) for place, number in enumerate(numbers))
        assert (late > 0) == (overtaken > 0)
        assert rig.engine.summary().total("offloaded") > 0
        rig.check(total)


def test_outputs_of_one_queue_share_its_wire():
    """Two outputs that name the same transmit queue have one wire."""
    nics = [Output("out0", 0, (0, 1), 1500), Output("out1", 1, (0,), 1500), Output("out0", 0, (1,), 1500)]
    table = WireTable(nics, [(0, 1), (2, 1)], 2048)
    assert table.places == [("out0", 0), ("out0", 1), ("out1", 0)]
    assert table.arrays(2, 1).outputs.tolist() == [[2, 0, 1, 0], [1, 2, 0, 0], [1, 1, 0, 0]]


def test_least_load_fills_the_empty_wire():
    """With --tx-queue least a chunk takes the transmit queue that has the fewest frames under way."""
    gate = Gate()
    with WireRig([gate.handler], tx_queues=3, queue_by="least", M=8, R=16, timeout_ns=PATIENT_NS) as rig:
        rig.inject(0, flow_frames(1))
        until(lambda: gate.sizes == [1])
        rig.inject(0, flow_frames(48, first=1))
        until(lambda: rig.engine.depths() == [6])
        gate.let_go(7)
        until(lambda: rig.forwarder.unfinished(0) == 49)
        assert gate.sizes == [1, *[8] * 6]
        assert take(rig, 49) == [17, 16, 16]
        settled(rig, 49)
        rig.check(49)


def test_a_packet_leaves_at_once():
    """An idle forwarder sends a packet long before its chunk is full and its timeout is over."""
    with WireRig(timeout_ns=10 * PATIENT_NS) as rig:
        for number in range(3):
            rig.inject(0, flow_frames(1, first=number))
            until(lambda number=number: rig.forwarder.unfinished(0) == number + 1)
        take(rig, 3)
        settled(rig, 3)
        rig.check(3)


def test_a_hash_keeps_a_flow_on_a_transmit_queue():
    """With --tx-queue hash each flow leaves on one wire, in order, and several wires are used."""
    frames = flow_frames(40) * 10
    with WireRig(tx_queues=4, queue_by="hash", M=8, R=64, tx_entries=512) as rig:
        rig.run_kernel()
        rig.inject(0, frames)
        settled(rig, len(frames))
        wires = [{number_of(frame) for frame in wire} for wire in rig.sent]
        assert sum(map(len, wires)) == 40
        assert sum(bool(wire) for wire in wires) > 1
        rig.check(len(frames))


@settings(max_examples=12 if PURE else 25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    queues=st.integers(1, 3), outputs=st.integers(1, 3), tx_queues=st.integers(1, 2), M=st.integers(1, 9),
    R=st.integers(2, 9), tx_entries=st.sampled_from([4, 16, 64]), advanced=st.booleans(),
    queue_by=st.sampled_from(["same", "hash", "least"]), output_by=st.sampled_from(["flow", "hosts", "packet"]),
    steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 8)), max_size=12),
    python=st.booleans(),
)  # fmt: skip
def test_no_cell_and_no_packet_is_lost(
    queues, outputs, tx_queues, M, R, tx_entries, advanced, queue_by, output_by, steps, python
):
    """However packets come and wires move: every cell is in one place at the end, every packet has a name."""
    handlers = [bind(lambda_for(python))]
    with WireRig(
        handlers, queues, outputs, tx_queues, M, R, tx_entries, queue_by, output_by, 1_000_000, advanced=advanced
    ) as rig:
        given_packets = 0
        for queue, packets, leave in steps:
            rig.inject(queue % queues, flow_frames(packets, first=given_packets))
            given_packets += packets
            for wire in range(len(rig.sent)):
                rig.transmit(wire, leave)
        rig.stop()
        check_cells(rig)
        rig.check(given_packets)


@wirecap.chunk_handler
def python_looks(chunk): ...


@wirecap.chunk_handler
def marks_and_drops(chunk):
    for number, start in enumerate(chunk.offsets):
        chunk.arena[start] = 0xAA
        if chunk[number][49] % 3 == 0:
            chunk.drop(number)


@wirecap.packet_handler
def keeps_even(timestamp_ns, data):
    return data[49] % 2 == 0


def test_python_handlers_decide_and_change():
    """A chunk handler writes into the arena and drops by number; a packet handler drops by returning False."""
    with WireRig([bind(marks_and_drops), bind(keeps_even)], M=8, R=32) as rig:
        rig.run_kernel()
        rig.inject(0, flow_frames(60))
        until(lambda: rig.ended() == 60)
        rig.stop()
        left = [number for number in range(60) if number % 3 and number % 2 == 0]
        assert [number_of(frame) for frame in rig.sent[0]] == left
        assert {frame[0] for frame in rig.sent[0]} == {0xAA}
        assert rig.drops() == {"by_handler": 60 - len(left)}
        rig.check(60)


@wirecap.handler
def changes(packet, state, what=0):
    if what == 0:
        packet.udp.dst_port = 7
    elif what == 1:
        packet.drop()
    elif what == 2:
        packet[70] = 1
    elif what == 3:
        packet.tcp.dst_port = 7


@pytest.mark.parametrize("what", [0, 1])
def test_a_capture_changes_nothing(what):
    """Where packets are not forwarded, an attempt to change one ends the run with its place and the reason."""
    with Rig(Pipeline([bind_with(changes, what)])) as rig:
        rig.inject(0, flow_frames(1))
        until(lambda: not rig.engine.running())
        rig.stop()
        assert "only wirecap forward can change packets" in str(rig.engine.failure())


@pytest.mark.parametrize(("what", "why"), [(2, "no such byte"), (3, "no such header")])
def test_a_change_outside_the_packet_is_refused(what, why):
    """A byte or a header that is not there cannot be set: the run ends, what the thread had in hand has a name."""
    with WireRig([bind_with(changes, what)]) as rig:
        rig.run_kernel()
        rig.inject(0, flow_frames(4))
        until(lambda: not rig.engine.running())
        rig.stop()
        assert why in str(rig.engine.failure())
        drops = rig.drops()
        assert drops["handler_failed"] + drops.get("unread_at_stop", 0) == 4
        rig.check(4)


def bind_with(handler, what: int):
    return bind(handler, {"what": str(what)})


def lambda_for(python: bool):
    return python_looks if python else drops_odd


@settings(max_examples=12 if PURE else 25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    queues=st.integers(1, 2), tx_entries=st.sampled_from([4, 16, 64]), M=st.integers(1, 9),
    bursts=st.lists(st.integers(1, 30), min_size=1, max_size=6), budget=st.integers(1, 40), stalls=st.integers(0, 3),
    refuses=st.integers(0, 5),
)  # fmt: skip
def test_every_answer_of_the_nic_has_a_name(queues, tx_entries, M, bursts, budget, stalls, refuses):
    """However few frames a call takes, and however many the NIC refuses: what was refused is dropped as tx_refused, the
    rest is forwarded, nothing else is lost, no count is ever negative, and every cell is in one place."""
    with WireRig(queues=queues, M=M, R=64 // M + 2, tx_entries=tx_entries) as rig:
        rig.source.answer(0, budget, stalls, refuses)
        given_packets = 0
        for number, burst in enumerate(bursts):
            rig.inject(number % queues, flow_frames(burst, first=given_packets))
            given_packets += burst
            until(lambda wanted=given_packets: counted_so_far(rig) == wanted)
        rig.stop()
        check_cells(rig)
        check_identity(rig.engine, given_packets)
        refused = len(range(0, given_packets, refuses)) if refuses else 0
        assert rig.drops() == ({"tx_refused": refused} if refused else {})
        assert rig.forwarded == given_packets - refused


def counted_so_far(rig: WireRig) -> int:
    """Packets that have ended, while the run goes on."""
    summary = rig.engine.summary()
    counts = [summary.total("forwarded"), summary.total("delivered"), *summary.drops().values()]
    assert min(counts) >= 0
    return rig.ended()


def test_a_nic_that_takes_nothing_costs_patience_and_no_packet_its_name():
    """EAGAIN to every call: what fits the ring stays there, the rest is dropped as tx_ring_full."""
    with WireRig(M=8, R=16, tx_entries=16, patience_ns=1_000_000) as rig:
        rig.source.answer(0, budget=0)
        rig.inject(0, flow_frames(40))
        until(lambda: rig.drops().get("tx_ring_full") == 24)
        rig.stop()
        assert rig.drops() == {"tx_ring_full": 24, "tx_unfinished": 16}
        rig.check(40)
