"""Interfaces that go away and come back under ``--keep-going``: nothing of what arrived is lost or counted twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rig import LiveRig, Wire, check_identity, flow_frames, number_of, read_pcapng, until
from unplugging import Told, plug_in, unplug
from wirecap.config.capture import WriteConfig
from wirecap.kernels.pool import pool as k
from wirecap.kernels.xdp import rings as r
from wirecap.lab.testbed import Testbed
from wirecap.run.waiting import Waiting
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

pytestmark = pytest.mark.live
Make = Callable[..., Testbed]


def cells_at_home(rig: LiveRig) -> list[int]:
    """For each queue, the cells that no chunk has, each counted once."""
    pool, found = rig.engine.pool, []
    for queue in range(len(rig.source.queues)):
        words = pool.queues[queue * k.QUEUE_WORDS : (queue + 1) * k.QUEUE_WORDS]
        free = pool.free_cells[queue, : words[k.FREE_CELLS]].tolist()
        entries = range(int(words[k.TAKEN]), int(words[r.SUBMITTED]))
        at = int(words[r.FILL_DESCRIPTORS])
        attached = [int(rig.source.rings.words[at + (entry & int(words[r.FILL_MASK]))]) for entry in entries]
        found.append(len({cell & int(words[r.CELL_MASK]) for cell in free + attached}))
    return found


@pytest.mark.parametrize(("queues", "comes_back"), [(1, True), (2, False)])
def test_the_packet_engine(testbed: Make, queues: int, comes_back: bool) -> None:
    """It takes an interface back where that has one queue; a fanout group's sockets cannot be bound again."""
    bed = testbed(queues=queues)
    told = Told()
    with LiveRig(bed, engine="packet", keep_going=True, promiscuous=True) as rig:
        waiting = Waiting(rig.engine, rig.config, told)  # type: ignore[arg-type]
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(100))
        rig.done(100)
        unplug(bed)
        until(lambda: not rig.engine.running() or rig.source.away())
        assert rig.engine.running() == comes_back
        if comes_back:
            waiting()
            plug_in(bed, queues=queues)
            until(lambda: rig.engine.running() and (waiting() or not rig.source.away()))
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(100))
            rig.done(200)
        rig.stop()
        check_identity(rig.engine, received=200 if comes_back else 100)
        assert rig.drops() == {}


@pytest.mark.parametrize("mode", ["native", "generic"])
def test_what_is_unplugged_comes_back(testbed: Make, tmp_path: Path, mode: str) -> None:
    """Twice: all packets are in the file, in order, all cells are still there, and the counters went on."""
    bed = testbed(queues=2)
    path, told = tmp_path / "out.pcapng", Told()
    write = WriteConfig(path=str(path))
    with LiveRig(bed, write=write, xdp_mode=mode, keep_going=True, promiscuous=True) as rig:
        waiting = Waiting(rig.engine, rig.config, told)  # type: ignore[arg-type]

        def look() -> bool:
            assert rig.engine.running(), rig.engine.failure()
            waiting()
            return not rig.source.away()

        for turn in range(3):
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(500, first=turn * 500))
            rig.done(turn * 500 + 500)
            if turn == 2:
                break
            unplug(bed)
            until(lambda: not look() and "is gone: waiting" in "".join(told.lines[-1:]))
            plug_in(bed)
            until(look)
            assert "is back" in told.lines[-1]
        until(lambda: sum(cells_at_home(rig)) == 2 * rig.engine.M * rig.engine.R)
        rig.stop()
        check_identity(rig.engine, received=1500)
        assert rig.drops() == {}
    packets = read_pcapng(path)
    assert sorted(number_of(packet.data) for packet in packets) == list(range(1500))
    times = [packet.timestamp for packet in packets]
    assert times == sorted(times)


def test_the_other_interface_goes_on(testbed: Make) -> None:
    """While one of two is away, and at full speed while it is taken back, the other loses nothing; who has the cells
    registered does not matter."""
    bed = testbed(queues=2, nics=2)
    names = [nic.inside for nic in bed.nics]
    told = Told()
    with LiveRig(bed, *names, keep_going=True) as rig:
        waiting = Waiting(rig.engine, rig.config, told)  # type: ignore[arg-type]
        with LiveFrames(bed.nics[1].outside, synthetic.udp(60)) as sender:
            sent, back = [0], threading.Event()

            def send() -> None:
                """No more at once than are attached, which a capture thread without a CPU does not lose."""
                while not back.is_set():
                    sent[0] += sender.send_paced(4_000, 50_000)
                    until(lambda: rig.ended() >= sent[0])

            sending = threading.Thread(target=send)
            sending.start()
            unplug(bed, 0)
            until(lambda: not rig.engine.running() or rig.source.away())
            waiting()
            plug_in(bed, 0)
            until(lambda: rig.engine.running() and (waiting() or not rig.source.away()))
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(300))
            back.set()
            sending.join()
        rig.done(sent[0] + 300)
        rig.stop()
        check_identity(rig.engine, received=sent[0] + 300)
        assert rig.drops() == {}


def test_what_comes_back_smaller_is_told_and_waited_for(testbed: Make) -> None:
    """With too few queues it is not captured, which is said once; with enough it is."""
    bed = testbed(queues=2)
    told = Told()
    with LiveRig(bed, keep_going=True) as rig:
        waiting = Waiting(rig.engine, rig.config, told)  # type: ignore[arg-type]
        unplug(bed)
        until(lambda: rig.engine.running() and rig.source.away())
        plug_in(bed, queues=1)
        until(lambda: waiting() or len(told.lines) == 2)
        for _ in range(3):
            assert rig.engine.running()
            waiting()
        assert len(told.lines) == 2
        assert "has come back with 1 queues, and queue 1 is captured" in told.lines[1]
        unplug(bed)
        plug_in(bed)
        until(lambda: waiting() or "is back" in told.lines[-1])
        rig.stop()
        check_identity(rig.engine, received=0)


def test_without_copies_there_is_no_waiting(testbed: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be told which cells the driver has, the capture ends, and the reason is one sentence."""
    bed = testbed(queues=1)
    with LiveRig(bed, keep_going=True) as rig:
        monkeypatch.setattr(rig.source, "zero_copy", True)
        unplug(bed)
        until(lambda: not rig.engine.running())
        assert "is gone" in str(rig.engine.failure())
        rig.stop()
