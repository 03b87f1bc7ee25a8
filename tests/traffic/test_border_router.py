"""The border router's traffic: rates that RSS spreads over queues as the simulator has them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from wirecap.traffic import border_router
from wirecap.traffic.border_router import BorderRouter
from wirecap.traffic.steering import Rss
from wirecap.traffic.synthetic import IMIX

SLICE_NS = 5_000_000


class Packets(NamedTuple):
    due: np.ndarray
    queue: np.ndarray
    data: list[bytes]


def packets_of(queues: int, duration_ns: int, seed: int = 1, **options: int) -> Packets:
    """The first packets of the profile, with their bytes."""
    due, queue, data = [], [], []
    for batch in BorderRouter(queues, 1500, IMIX, seed, duration_ns=duration_ns, **options).batches():
        due.append(batch.due)
        queue.append(batch.queue)
        data += [
            bytes(batch.arena[at : at + size])
            for at, size in zip(batch.address.tolist(), batch.length.tolist(), strict=True)
        ]
        batch.release()
    return Packets(np.concatenate(due), np.concatenate(queue), data)


@pytest.mark.parametrize("queues", [4, 6])
def test_rates_of_each_queue(queues: int) -> None:
    """In each slice of 5 ms a queue gets as many packets as the profile's rate says, within one for each bucket."""
    found, slices = packets_of(queues, 40 * SLICE_NS), 40
    assert (np.diff(found.due) >= 0).all()
    counts = np.array([np.bincount(found.due[found.queue == q] // SLICE_NS, minlength=slices) for q in range(queues)])
    wanted = border_router.rates(queues)[:slices].T * border_router.SLICE_S
    assert abs(counts.cumsum(axis=1) - wanted.cumsum(axis=1)).max() <= border_router.BUCKETS / queues + 1
    assert counts[0].sum() > 60_000 * slices * border_router.SLICE_S


def test_whole_profile_has_the_papers_size() -> None:
    """32 s, 5 to 6 million packets, the busiest of six queues near 80 kp/s all the time."""
    plan = BorderRouter(6, 1500, IMIX)
    assert 5_000_000 <= plan._limit <= 6_000_000
    assert border_router.SLICE_S * border_router.SLICES == 32
    rates = border_router.rates(6)
    assert 70_000 < rates[:, 0].mean() < 90_000
    assert rates[:, 1:].max() > 3 * rates[:, 1:].mean()


def test_rss_puts_the_packets_where_the_profile_says() -> None:
    """The Toeplitz hash of the bytes, with the standard key and a table in turn, gives each packet's queue."""
    found, rss = packets_of(6, 10 * SLICE_NS), Rss(6, table=[entry % 6 for entry in range(128)])
    sizes = np.array([len(one) for one in found.data], np.uint32)
    data = np.frombuffer(b"".join(found.data), np.uint8).copy()
    starts = (np.cumsum(sizes) - sizes).astype(np.int64)
    assert rss.choose(data, starts, sizes, len(sizes)).tolist() == found.queue.tolist()


def test_seed_and_tag() -> None:
    """The same seed gives the same bytes, another one other sizes at the same times; --vlan puts a tag in."""
    one, again, other = (packets_of(6, 4 * SLICE_NS, seed) for seed in (1, 1, 2))
    assert one.data == again.data
    assert list(map(len, one.data)) != list(map(len, other.data))
    assert one.due.tolist() == other.due.tolist()
    tagged = packets_of(6, 2 * SLICE_NS, vlan=9)
    assert {packet[12:16] for packet in tagged.data} == {bytes.fromhex("81000009")}
    assert tagged.queue.tolist() == one.queue.tolist()[: len(tagged.queue)]
