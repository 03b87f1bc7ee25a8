"""The log of live offload decisions, and its replay through the same policy."""

from __future__ import annotations

import os

import numpy as np

from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.files.shared import open_for_writing
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.offload_policy import decide

KEPT_DECISIONS = 65_536


def save(engine: Engine, path: str) -> int:
    """Write the kept decisions as a NumPy archive (.npz); returns how many.

    ``decisions``: int64 (n, 4 + C): home consumer, group, T in percent, the chosen queue, then the depth of each
    of the C capture queues in chunks; ``members``: int64 (C, 1 + C), a row per group: the number of members, then
    the members; ``capacity``: R.
    """
    pool = engine.pool
    made = int(pool.control[k.DECIDED])
    rows = np.roll(pool.decisions, -made, axis=0) if made > len(pool.decisions) else pool.decisions[:made]
    try:
        with os.fdopen(open_for_writing(path, os.O_TRUNC), "wb") as file:
            np.savez_compressed(file, decisions=rows, members=pool.members, capacity=engine.R)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "name a file in a folder that you can write to") from None
    return len(rows)


def replay(path: str) -> tuple[int, int]:
    """(number of decisions, how many the policy would make differently): the second should be 0."""
    with np.load(path) as log:
        rows, members, capacity = log["decisions"], log["members"], int(log["capacity"])
    different = 0
    for row in rows:
        group = members[row[k.DECISION_GROUP]]
        depths = np.ascontiguousarray(row[k.DECISION_WORDS :])
        threshold = int(row[k.DECISION_THRESHOLD])
        chosen = decide(int(row[k.DECISION_HOME]), depths, group[1:].copy(), int(group[0]), capacity, threshold)
        different += chosen != row[k.DECISION]
    return len(rows), int(different)
