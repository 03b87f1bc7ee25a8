"""``queue_profiler``: packets of each receive queue in bins of 10 ms, as a table (CSV) and a plot (PNG)."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.engine.chunk import Chunk
from wirecap.errors import UsageError
from wirecap.handlers.handler import Setting
from wirecap.handlers.python import PythonHandler
from wirecap.handlers.user import UserHandler, Way
from wirecap.units import parse_duration_ns

BIN_NS = 10_000_000
FILE = "queue-profile.png"
MOST_BINS = 10_000_000


class QueueProfiler(PythonHandler):
    """Counts packets by their own time and home queue, whichever thread has them; ``result`` writes the files."""

    name = "queue_profiler"

    def __init__(self, bin_ns: int = BIN_NS, file: str = FILE) -> None:
        def queue_profiler(chunk: Chunk) -> None:
            bins, counts = np.unique(chunk.timestamps // np.uint64(bin_ns), return_counts=True)
            with self._lock:
                mine = self._packets[chunk.interface, chunk.queue]
                for number, count in zip(bins.tolist(), counts.tolist(), strict=True):
                    mine[number] += count

        super().__init__(UserHandler(queue_profiler, Way.CHUNK))
        self._bin_ns, self._file = bin_ns, Path(file)
        self._lock = threading.Lock()
        self._packets: dict[tuple[str, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> QueueProfiler:
        unknown = set(options) - {"bin", "file"}
        if unknown:
            raise UsageError(f"handler queue_profiler has no option {min(unknown)!r}", "its options are bin and file")
        bin_ns = parse_duration_ns(options.get("bin", "10ms"))
        if bin_ns < 1000:
            raise UsageError(f"queue_profiler: bins must be at least 1 us, not {bin_ns} ns", "write bin=10ms")
        return QueueProfiler(bin_ns, options.get("file", FILE))

    def result(self) -> dict[str, Any]:
        """Where the files are, and each queue's packets and its mean and highest rate in packets per second."""
        names, rates = self.rates()
        table, plot = self._file.with_suffix(".csv"), self._file
        write_table(table, names, rates, self._bin_ns)
        missing = draw(plot, names, rates, self._bin_ns) if len(rates) else "no packets"
        seconds = self._bin_ns / 1e9
        queues = [
            {
                "queue": name, "packets": round(float(column.sum() * seconds)), "mean_pps": float(column.mean()),
                "most_pps": float(column.max()),
            }
            for name, column in zip(names, rates.T, strict=True)
        ]  # fmt: skip
        return {"table": str(table), "plot": missing or str(plot), "queues": queues}

    def rates(self) -> tuple[list[str], NDArray[np.float64]]:
        """The queues' names, and packets per second of every bin: float64 (bins, queues), without gaps."""
        keys = sorted(key for key, bins in self._packets.items() if bins)
        if not keys:
            return [], np.zeros((0, 0))
        first = min(min(self._packets[key]) for key in keys)
        last = max(max(self._packets[key]) for key in keys)
        if last - first >= MOST_BINS:
            raise UsageError(
                f"queue_profiler: too many bins of {self._bin_ns} ns: {last - first:,}",
                "use longer ones, such as bin=1s",
            )
        counts = np.zeros((last - first + 1, len(keys)))
        for column, key in enumerate(keys):
            for number, count in self._packets[key].items():
                counts[number - first, column] = count
        return [f"{interface} queue {queue}" for interface, queue in keys], counts * 1e9 / self._bin_ns


def write_table(path: Path, names: list[str], rates: NDArray[np.float64], bin_ns: int) -> None:
    """Write a row per bin: seconds since the first bin, then packets per second of each queue."""
    with path.open("w") as file:
        file.write(",".join(["seconds", *names]) + "\n")
        for number, row in enumerate(rates):
            file.write(",".join([f"{number * bin_ns / 1e9:g}", *(f"{rate:g}" for rate in row)]) + "\n")


def draw(path: Path, names: list[str], rates: NDArray[np.float64], bin_ns: int) -> str:
    """Draw a panel per queue, all with the same axes; returns '' or why there is no plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn: matplotlib is missing (pip install 'wirecap[plot]')"
    seconds = np.arange(len(rates)) * bin_ns / 1e9
    figure = Figure(figsize=(9, 1 + 1.1 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, name, column in zip(panels, names, rates.T, strict=True):
        panel.fill_between(seconds, column / 1e3, step="post", color="0.35", linewidth=0.6)
        panel.set_title(f"{name}: {column.mean() / 1e3:.1f} kp/s on average", loc="left", fontsize=8)
        panel.set_ylim(bottom=0)
        panel.set_xlim(0, len(rates) * bin_ns / 1e9)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supylabel(f"kp/s in bins of {bin_ns / 1e6:g} ms", fontsize=9)
    panels[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=120)
    return ""
