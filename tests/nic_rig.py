"""Captures on a NIC of a virtual machine, by every way into the engine (tests/nic)."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from rig import LiveRig, Wire, until
from wirecap.config.capture import PoolConfig
from wirecap.errors import SystemCallError
from wirecap.lab import testbed as lab
from wirecap.linux import ethtool, netlink, netns, zero_copy

VARIABLE = "WIRECAP_TEST_NICS"
"""Words NAME=NAMESPACE,INSIDE,OUTSIDE: a NIC in a namespace, and one outside that sends to it."""
LARGER = 4096
"""Cells in which the NICs that know whole KiB only have room for each frame."""
WAYS = {
    "zero-copy": {"engine": "xdp", "xdp_mode": "native"},
    "native": {"engine": "xdp", "xdp_mode": "native"},
    "generic": {"engine": "xdp", "xdp_mode": "generic"},
    "packet": {"engine": "packet"},
}


def named() -> dict[str, list[str]]:
    """The NICs that may be tested: [namespace, inside, outside]."""
    words = (word.partition("=") for word in os.environ.get(VARIABLE, "").split())
    return {name: places.split(",") for name, _, places in words}


def bed_of(name: str) -> lab.Testbed:
    """One of them as a testbed's only pair."""
    namespace, inside, outside = named()[name]
    facts = netns.call(namespace, netlink.interface, inside)
    end = lab.VethPair(inside, outside, facts.rx_queues, facts.mtu, facts.up, facts.xdp_mode)
    return lab.Testbed(namespace, True, (end,))


@contextmanager
def capturing(nic, way, **config):
    """A capture that goes this way; skips where the NIC's driver has none."""
    pool = config.pop("pool", PoolConfig(64, 100))
    if way == "zero-copy" and facts_of(nic).driver in zero_copy.SINCE:
        pool = replace(pool, cell=LARGER)
    config = {"pool": pool} | config
    try:
        rig = LiveRig(nic, **WAYS[way], **config)
        rig.__enter__()
    except SystemCallError as error:
        if way in ("zero-copy", "native"):
            pytest.skip(f"the driver has no native XDP: {error.message}")
        raise
    try:
        facts = rig.source.describe()
        if way == "zero-copy" and not facts["zero_copy"]:
            pytest.skip("the driver of this kernel has no zero-copy for this NIC")
        if way == "native" and facts["zero_copy"]:
            pytest.skip("zero-copy is there, and taken")
        until(lambda: facts_of(nic).state in ("up", "unknown"))  # some drivers reset the link for a program
        rig.before = counted(nic)
        yield rig
    finally:
        rig.__exit__()


def facts_of(nic):
    return netns.call(nic.name, netlink.interface, nic.nics[0].inside)


def send(nic, rig, frames, wanted=lambda frame: True):
    """Send a few at a time: an emulated NIC has a short ring and drops before the hook; wanted: is delivered."""
    few, before = 50, rig.delivered
    with Wire(nic.nics[0].outside) as wire:
        for first in range(0, len(frames), few):
            wire.send(frames[first : first + few])
            due = before + sum(map(wanted, frames[: first + few]))
            arrived(nic, rig, due)


def goes_on(nic, rig, frames):
    """Packets come again after a change of the port, and from then on all of them."""
    until(lambda: facts_of(nic).state in ("up", "unknown"))
    before = rig.delivered
    # a link that says it is up may still lose the first ones
    with explained(nic, rig, f"of more than {before}"), Wire(nic.nics[0].outside) as wire:
        until(lambda: wire.send(frames[:1]) or time.sleep(0.05) or rig.delivered > before)
    settled = until(rig.ended)
    until(lambda: rig.delivered >= settled)
    time.sleep(0.5)  # what is still on its way is not counted among the next ones
    send(nic, rig, frames)


def arrived(nic, rig, due):
    """Wait for so many packets."""
    with explained(nic, rig, f"of {due}"):
        until(lambda: rig.delivered >= due, 60)


@contextmanager
def explained(nic, rig, wanted):
    """Where packets do not come, say what the hook has counted, and the NICs since the capture began."""
    try:
        yield
    except pytest.fail.Exception:
        rows = rig.engine.summary()
        more = {name: count - rig.before.get(name, 0) for name, count in counted(nic).items()}
        more = {name: count for name, count in more.items() if count}
        hook = f"{rows.total('received')} at the hook, {rig.delivered} delivered {wanted}, drops {rows.drops()}"
        pytest.fail(f"{hook}; {facts_of(nic).state}, the NICs: {more}")


def counted(nic):
    """What the sender's NIC has counted, and the receiver's."""
    outside, inside = nic.nics[0].outside, nic.nics[0].inside
    sent = {f"sender's {name}": count for name, count in lab.counters(outside).items() if name.startswith("tx")}
    received = netns.call(nic.name, ethtool.statistics, inside) | lab.counters(inside, nic.name)
    return sent | {name.strip(): count for name, count in received.items() if "tx" not in name.lower()}
