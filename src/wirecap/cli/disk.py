"""``wirecap doctor --disk``: whether a folder takes what a full link brings."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

from wirecap.config.capture import PoolConfig
from wirecap.errors import UsageError
from wirecap.files import disk_speed
from wirecap.files.disk_speed import PACKET_BYTES, DiskSpeed, link_rate
from wirecap.linux import ethtool, netlink
from wirecap.linux import netns as namespaces
from wirecap.linux.probes import Finding
from wirecap.units import format_bit_rate, format_size

MINUTE_NS = 60 * 10**9


def finding(
    folder: str, names: Iterable[str], netns: str | None, rate_bps: int | None, duration_ns: int | None
) -> Finding:
    """Measure.  names: the interfaces whose rates count, if no rate is given.  Raises UsageError."""
    rate_bps = rate_bps or sum(namespaces.call(netns, _speed, name) for name in names)
    seconds, pool = (duration_ns or MINUTE_NS) / 1e9, PoolConfig().bytes(1)
    wanted = disk_speed.file_rate(rate_bps)
    shown = f" at {format_bit_rate(rate_bps)}" if rate_bps else ""
    click.echo(f"wirecap: writing into {folder} for {seconds:g} s{shown}", err=True)
    live = sys.stderr.isatty()

    def tell(gone: float, written: int) -> None:
        if live:
            sys.stderr.write(f"\r\x1b[K{gone:.0f} s: {format_size(written)} written")
            sys.stderr.flush()

    try:
        speed = disk_speed.measure(Path(folder), wanted, seconds, pool, tell)
    finally:
        if live:
            sys.stderr.write("\r\x1b[K")
    return judged(folder, rate_bps, speed, pool)


def judged(folder: str, rate_bps: int, speed: DiskSpeed, pool: int) -> Finding:
    """What a measurement says, in words."""
    took = f"{format_size(speed.per_second)}/s ({format_size(speed.written)} in {speed.seconds:.1f} s)"
    name = f"disk {folder}"
    if not rate_bps:
        said = f"took {took}: packets of {PACKET_BYTES} bytes at {format_bit_rate(link_rate(speed.per_second))}"
        return Finding(name, None, said, "--rate 10Gbps, or -i INTERFACE, says whether that is enough")
    rate = format_bit_rate(rate_bps)
    waited = f"at most {format_size(max(speed.backlog, 0))} waited, of {format_size(pool)} in a pool"
    if not speed.lost:
        return Finding(name, True, f"takes {rate}: {took}, {waited}")
    share = 100 * speed.lost / (speed.lost + speed.written)
    said = f"does not take {rate}: {took}; {share:.2g} % of the packets would be lost"
    advice = "keep less of each packet (-s), filter, compress (-w x.pcapng.lz4), or use a faster disk"
    return Finding(name, False, said, advice, loses=True)


def _speed(name: str) -> int:
    netlink.interface(name)
    speed = ethtool.speed_bps(name)
    if not speed:
        raise UsageError(f"{name} does not say how fast it is", "add --rate 10Gbps")
    return speed
