"""Options of the engine that ``capture`` and ``forward`` share: buffers, CPUs, buddy groups."""

from __future__ import annotations

import os
from typing import Any

from wirecap import config
from wirecap.config import PoolConfig, QueueSpec
from wirecap.errors import UsageError
from wirecap.units import format_size, parse_size


def parse_cpus(text: str) -> tuple[int, ...]:
    cpus = config.parse_numbers(text, text, "0,1 or 0-3", 1 << 16)
    allowed = os.sched_getaffinity(0)
    for cpu in cpus:
        if cpu not in allowed:
            raise UsageError(f"CPU {cpu} is not to be had here", f"choose among {', '.join(map(str, sorted(allowed)))}")
    return cpus


def parse_buddies(text: str) -> tuple[QueueSpec, ...]:
    return tuple(QueueSpec.parse(part) for part in text.split("+"))


def parse_buffer(text: str) -> int:
    return parse_size(f"{text}KiB" if text.strip().isdecimal() else text)


def pool_of(given: dict[str, Any]) -> PoolConfig:
    M, R, cell = given["M"], given["R"], given["cell"]
    if given["buffer_size"] is None:
        return PoolConfig(M, 100 if R is None else R, cell)
    if R is not None:
        raise UsageError("-R and -B both set the size of the pool", "leave one of them out")
    PoolConfig(M, 2, cell)  # M and cell must be sound before they divide
    R = given["buffer_size"] // (M * cell)
    if R < 2:
        least = format_size(2 * M * cell)
        raise UsageError(
            f"-B {format_size(given['buffer_size'])} is less than two chunks of {M} cells of {cell} bytes",
            f"take {least} or more, or a smaller -M; a number without a unit is KiB, as tcpdump has it",
        )
    return PoolConfig(M, R, cell)
