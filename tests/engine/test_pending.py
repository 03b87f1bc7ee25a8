"""received = delivered + filtered_out + dropped + pending at any moment of a run, for whoever asks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import wirecap
from rig import PCAP_HEADER, Gate, LiveRig, Nobody, Rig, Wire, check_identity, flow_frames, pcap_records, until
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool import pool as k
from wirecap.run.summary import as_dict
from wirecap.source.rings import ring_counts

MANY = 2_000 if PURE else 60_000


def check(summary: dict[str, Any]) -> None:
    """Both sides are equal, in all and for each queue, and no counter is negative."""
    for row in [summary["packets"], *summary["per_queue"]]:
        assert row["received"] == row["delivered"] + row["filtered_out"] + row["dropped"] + row["pending"], row
        assert row["dropped"] == sum(row["drops"].values())
        assert min(row["received"], row["delivered"], row["filtered_out"], row["pending"], *row["drops"].values()) >= 0
        assert "unaccounted" not in row["drops"]


class Asking:
    """A thread that asks for the summary as often as it can; ``with`` starts it, and raises what it found wrong."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        self.seen: list[dict[str, int]] = []
        self._ask, self._done = ask, threading.Event()
        self._wrong: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            while not self._done.wait(0.0002):  # lets the sender have the interpreter
                summary = self._ask()
                check(summary)
                self.seen.append(summary["packets"])
        except BaseException as error:
            self._wrong.append(error)

    def counted_pending(self) -> bool:
        """Whether an answer has counted packets that wait; also when the thread has ended with an error."""
        return any(packets["pending"] for packets in self.seen) or bool(self._wrong)

    def __enter__(self) -> Asking:
        self._thread.start()
        until(lambda: self.seen or self._wrong)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)
        if self._wrong:
            raise self._wrong[0]


@pytest.mark.kernel
@pytest.mark.parametrize("queues", [1, 3])
def test_a_capture_that_loses_packets(queues):
    """While pools run over, packets are filtered and the capture ends, every answer adds up; received only grows."""
    gate = Gate()  # packets wait from the first to the moment that an answer counted some
    with Rig(Pipeline([gate.handler, Paced(50_000)]), queues=queues, M=8, R=4) as rig:
        senders = [
            threading.Thread(target=lambda q=q: [rig.inject_copies(q, 40) for _ in range(MANY // 40)], daemon=True)
            for q in range(queues)
        ]
        with Asking(lambda: as_dict(rig.engine)) as asking:
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join(60)
            until(asking.counted_pending)
            gate.let_go(MANY * queues)
            rig.stop()
            until(lambda: asking.seen[-1]["pending"] == 0)
        check_identity(rig.engine)
        assert rig.drops()
    received = [packets["received"] for packets in asking.seen]
    assert received == sorted(received)


@pytest.mark.parametrize("options", [{}, {"filter": "ether[3] < 20"}, {"count": 700}])
def test_a_file(tmp_path, options):
    """From a file, too: inside the loop and beside it, with a filter, with -c, and after its last packet."""
    (tmp_path / "a.pcap").write_bytes(PCAP_HEADER + pcap_records(MANY // 2))
    with wirecap.open(str(tmp_path / "a.pcap"), M=16, R=8, **options) as capture, Asking(capture.summary) as asking:
        delivered = waiting = 0
        for chunk in capture:
            delivered += len(chunk)
            now = capture.summary()
            check(now)
            assert now["packets"]["delivered"] == delivered
            waiting = max(waiting, now["packets"]["pending"])
        assert capture.summary()["packets"]["pending"] == 0
        assert asking.seen
    final = capture.summary()
    check(final)
    assert waiting > 0
    assert final["packets"]["pending"] == 0 < final["packets"]["delivered"] == delivered


def test_a_capture_that_others_close(tmp_path):
    """Whoever asks while another thread closes the capture, or takes its last chunks, gets an answer that adds up."""
    (tmp_path / "a.pcap").write_bytes(PCAP_HEADER + pcap_records(3000))
    for turn in range(20):
        capture = wirecap.open(str(tmp_path / "a.pcap"), M=16, R=8)
        loop = threading.Thread(target=lambda capture=capture: [len(chunk) for chunk in capture], daemon=True)
        with Asking(capture.summary):
            loop.start()
            if turn % 2:
                until(lambda capture=capture: capture.summary()["packets"]["delivered"])
            capture.close()
        loop.join(30)
        check(capture.summary())
        assert capture.summary()["packets"]["pending"] == 0


@pytest.mark.live
@pytest.mark.parametrize("engine", ["xdp", "packet", "direct"])
def test_a_live_capture(testbed, engine):
    """On a NIC: with a pool that runs over and frames that are too long, every answer adds up while packets come."""
    bed = testbed(queues=2, mtu=3000)
    frames = flow_frames(500) + flow_frames(20, 2500)
    handlers = ["pkt_handler:rate=20000"]
    rounds = 0
    with LiveRig(bed, engine=engine, handlers=handlers, ring=256 if engine == "direct" else None) as rig:
        with Asking(lambda: as_dict(rig.engine)) as asking, Wire(bed.nics[0].outside) as wire:
            while rounds < 10 or (rounds < 1000 and not asking.counted_pending()):
                wire.send(frames)
                rounds += 1
            assert asking.counted_pending()
            rig.stop()
        check_identity(rig.engine, received=rounds * len(frames))


def test_counting_while_the_capture_thread_goes_on():
    """What is taken from the ring between two looks at it is not counted as the rest of 2^32 entries."""

    class GoingOn:
        """The ring's producer, by the time of whose reading the capture thread has taken all there was, and more."""

        def __getitem__(self, at):
            there = rings.halves[at]
            taken[0] = int(there) + 5
            return there

    with Rig(Nobody(), M=8, R=8) as rig:
        rig.stop(give_up=True)
        rings, taken = rig.source.rings, rig.engine.pool.queues[k.TAKEN : k.TAKEN + 1]
        before = taken.copy()
        assert ring_counts(rig.engine.pool, rings._replace(halves=GoingOn()), 0)[0] == 0
        taken[:] = before
