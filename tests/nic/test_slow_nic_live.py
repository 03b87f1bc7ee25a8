"""A consumer that is behind, on a NIC of a virtual machine: what the pool holds then, and what waiting for it costs."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nic_rig import WAYS, capturing
from rig import Gate, Wire, check_identity, flow_frames, until
from wirecap.config.capture import PoolConfig
from wirecap.handlers.pipeline import Pipeline

pytestmark = pytest.mark.live
CHUNK, CHUNKS = 64, 20
CELLS = CHUNK * CHUNKS
IN_RING = 16
"""Cells that a driver may leave in its ring at most: it refills some at a time, and never all."""
WATCHED_S = 2


@contextmanager
def nobody_takes(nic, way):
    """A capture whose handler holds on to its first chunk, and that was sent half more than its pool has room for.

    Yields the wire, and a list that gets the number of delivered packets afterwards."""
    gate, delivered = Gate(), []
    with capturing(nic, way, pool=PoolConfig(CHUNK, CHUNKS), application=Pipeline([gate.handler])) as rig:
        try:
            with Wire(nic.nics[0].outside) as wire:
                for first in range(0, CELLS * 3 // 2, 50):
                    wire.send(flow_frames(50, first=first))
                    await_hook(rig, first + 50)
                yield wire, delivered
        finally:
            gate.let_go(100_000)
        settled = until(rig.ended)
        until(lambda: rig.ended() >= settled)
        rig.stop()
        check_identity(rig.engine)
        delivered.append(rig.delivered)


def await_hook(rig, due):
    """Wait until so many have come to the hook; what finds no room in the NIC's own ring never does."""

    def there():
        return rig.engine.summary().total("received") >= due

    if due <= CELLS - IN_RING:
        until(there)
    else:
        with suppress(pytest.fail.Exception):
            until(there, 0.1)


def test_as_much_as_in_copy_mode(nic):
    """With zero-copy a pool holds as many packets for a consumer that is behind as it does in copy mode."""
    delivered = {}
    for way in ("zero-copy", "generic"):
        with nobody_takes(nic, way) as (_, found):
            pass
        delivered[way] = found[0]
    assert delivered["generic"] >= CELLS - IN_RING
    assert delivered["zero-copy"] >= delivered["generic"] - IN_RING


def softirq_s():
    """Processor time that the kernel's network code has had, of all CPUs."""
    return int(Path("/proc/stat").read_text().split()[7]) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("way", [way for way in WAYS if way != "packet"])
def test_a_driver_without_cells_rests(nic, way):
    """While there is no cell to give to the NIC, its driver does not ask for one without end."""
    with nobody_takes(nic, way) as (wire, _):
        begun, before = time.monotonic(), softirq_s()
        while time.monotonic() < begun + WATCHED_S:
            wire.send(flow_frames(1))
            time.sleep(0.05)
        assert softirq_s() - before < WATCHED_S / 2
