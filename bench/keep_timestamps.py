"""A chunk handler that keeps every packet's timestamp, or each chunk's first and last, in a NumPy file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import wirecap

_kept: list[NDArray[np.uint64]] = []
_target: list[str] = []


def save(_: Sequence[object]) -> int:
    """At the end, write everything to the file; returns the number of timestamps."""
    timestamps = np.concatenate([*_kept, np.zeros(0, np.uint64)]).astype(np.int64)
    for path in _target[:1]:
        np.save(path, timestamps)
    return len(timestamps)


@wirecap.chunk_handler(state={"chunks": np.int64}, merge=save)
def keep(chunk: wirecap.Chunk, state: object, path: str = "timestamps.npy", sparse: bool = False) -> None:
    _target.append(path)
    _kept.append(chunk.timestamps[[0, -1]] if sparse else chunk.timestamps.copy())
