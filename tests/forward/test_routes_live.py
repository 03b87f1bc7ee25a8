"""Which packet leaves where, live: a fan-out with tcpdumps behind it, shared and split NICs, the bare ring."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from forward_rig import AT_REST, EXAMPLE, LEAVE, MTU, Running, caught, flow_of, frames_of, replay, tcpdump, whole
from rig import Wire, flow_frames, until
from wirecap.lab.far_end import FarEnd
from wirecap.linux import metadata, netlink, netns


@pytest.mark.live("tcpreplay", "tcpdump")
def test_a_fan_out_spreads_flows_over_tcpdumps(testbed, mixed_trace, tmp_path):
    """Three tcpdumps behind --to: every packet is seen once, each connection by one of them, both its directions."""
    bed = testbed(queues=2, nics=4, mtu=MTU)
    near, *outs = bed.nics
    with ExitStack() as stack:
        names = ",".join(nic.inside for nic in outs)
        forward = stack.enter_context(
            Running(bed, near.inside, "--to", names, "--balance", "flow", "--cell", "4096", *AT_REST, *LEAVE)
        )
        dumps = [stack.enter_context(tcpdump(nic.outside, tmp_path / nic.outside)) for nic in outs]
        replay(near.outside, mixed_trace)
        sent = frames_of(mixed_trace)
        until(lambda: sum(len(whole(tmp_path / nic.outside)) for nic in outs) >= len(sent), 60)
        found = [caught(d, tmp_path / nic.outside, 0) for d, nic in zip(dumps, outs, strict=True)]
        summary = forward.end()
    assert summary["packets"]["forwarded"] == len(sent)
    assert sorted(frame for side in found for frame in side) == sorted(sent)
    assert min(map(len, found)) > len(sent) // 20
    where: dict[Any, set[int]] = {}
    for number, side in enumerate(found):
        fragments: dict[Any, Any] = {}
        for frame in side:
            where.setdefault(flow_of(frame, fragments), set()).add(number)
    assert len(where) > 100
    assert all(len(places) == 1 for places in where.values())


@pytest.mark.live
def test_two_nics_into_one_and_one_nic_into_two(testbed):
    """Pairs may share an outgoing NIC, and split an incoming one by its queues; every packet leaves where it is to."""
    bed = testbed(queues=2, nics=3)
    a, b, c = bed.nics
    with (
        Running(bed, a.inside, c.inside, "--pair", f"{b.inside},{c.inside}") as forward,
        FarEnd(c.outside) as end,
        Wire(a.outside) as one,
        Wire(b.outside) as other,
    ):
        one.send(flow_frames(300))
        other.send(flow_frames(200))
        until(lambda: end.packets == 500)
        summary = forward.end()
    assert summary["packets"]["drops"] == {}
    assert sum(row["forwarded"] for row in summary["outputs"] if row["interface"] == c.inside) == 500
    with (
        Running(bed, f"{a.inside}@0", b.inside, "--pair", f"{a.inside}@1,{c.inside}") as forward,
        FarEnd(b.outside) as first,
        FarEnd(c.outside) as second,
        Wire(a.outside) as wire,
    ):
        wire.send(flow_frames(500))
        until(lambda: first.packets + second.packets == 500)
        arrived = [first.packets, second.packets]
        assert [row["received"] for row in forward.end()["per_queue"]] == arrived
        assert min(arrived) > 100


@pytest.mark.live
@pytest.mark.parametrize("handlers", [(), ("--handler", f"{EXAMPLE}:ttl")])
def test_the_bare_ring_forwards_too(testbed, handlers):
    """With --engine direct handler threads receive and send by themselves, and every packet is accounted for."""
    bed = testbed(queues=2, nics=2)
    near, far = bed.nics
    with (
        Running(bed, near.inside, far.inside, "--engine", "direct", *handlers) as forward,
        FarEnd(far.outside) as end,
        Wire(near.outside) as wire,
    ):
        wire.send(flow_frames(20_000))
        until(lambda: end.packets > 1000)
        summary = forward.end()
        forwarded = summary["packets"]["forwarded"]
        until(lambda: end.packets >= forwarded)  # what has left may still be on its way
        assert end.packets == forwarded
    assert summary["engine"] == "direct"
    assert summary["packets"]["received"] == 20_000
    assert set(summary["packets"]["drops"]) <= {"ring_full", "tx_ring_full"}


@pytest.mark.live
def test_a_fan_out_by_the_hash_of_the_nic(testbed):
    """Each flow leaves by one NIC, also where a handler has pushed a tag into the space that the hash lies in."""
    bed = testbed(queues=2, nics=3)
    near, *outs = bed.nics
    index = netns.call(bed.name, netlink.index_of, near.inside)
    if metadata.HASH not in netns.call(bed.name, metadata.offered, index):
        pytest.skip("this kernel's veth tells no program of hashes")
    names = ",".join(nic.inside for nic in outs)
    counts = {}
    for handler in ((), ("--handler", f"{EXAMPLE}:tag")):
        with (
            Running(bed, near.inside, "--to", names, "--balance", "nic", *handler) as forward,
            FarEnd(outs[0].outside) as first,
            FarEnd(outs[1].outside) as second,
            Wire(near.outside) as wire,
        ):
            for turn in range(1, 4):
                wire.send(flow_frames(200, 1400))
                until(lambda turn=turn, first=first, second=second: first.packets + second.packets == turn * 200)
                counts[handler, turn] = first.packets / turn
            assert forward.end()["packets"]["drops"] == {}
    assert len(set(counts.values())) == 1
    assert 50 < min(counts.values()) < 150
