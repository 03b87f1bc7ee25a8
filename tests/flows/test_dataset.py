"""What a dataset keeps where its disk fails, and when the next collector works in another folder."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wirecap.errors import UsageError, WirecapError
from wirecap.flows import broker, collecting
from wirecap.flows.collecting import Collector
from wirecap.flows.dataset import STATE, Dataset
from wirecap.flows.files import GROUP_ROWS
from wirecap.flows.records import Records
from wirecap.kernels.flows import layout as f


def batch(count: int) -> Any:
    """Records of flows that end a second apart."""
    words = np.zeros((count, f.ENTRY_WORDS), np.int64)
    words[:, f.FIRST] = words[:, f.LAST] = (1_700_000_000 + np.arange(count)) * 1_000_000_000
    return Records(words).to_arrow()


def rows(folder: Path) -> int:
    import pyarrow.parquet as pq

    return sum(pq.read_table(path).num_rows for path in folder.rglob("[!.]*.parquet"))


def test_a_disk_that_is_full_for_a_moment(tmp_path, monkeypatch):
    """A commit that fails ends the collector: nothing counts as collected whose file was removed."""
    dataset = Dataset(str(tmp_path / "%H.parquet"))
    failed = []

    async def connect(*_: Any) -> Any:
        return object()

    async def follow(self: Collector, connection: Any) -> bool:
        if not dataset.rows:
            dataset.seen("s", "a").add(1)
            dataset.add("s", batch(10))
        self._commit()
        return True

    def fsync(_: int) -> None:
        if not failed:
            failed.append(True)
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(broker, "connect", connect)
    monkeypatch.setattr(Collector, "_follow", follow)
    monkeypatch.setattr(collecting, "RETRY_S", 0)
    monkeypatch.setattr(os, "fsync", fsync)
    address = broker.parse("nats://127.0.0.1/flows.>", wildcards=True)
    collector = Collector(address, dataset, 0.0, once=False, over=lambda: False, tell=lambda line: None)
    with pytest.raises(WirecapError, match="No space left"):
        collector.run()
    assert not (tmp_path / STATE).exists()
    assert not list(tmp_path.rglob("*.part"))
    again = Dataset(str(tmp_path / "%H.parquet"))
    assert again.seen("s", "a").add(1)
    again.add("s", batch(10))
    again.commit()
    again.close()
    assert rows(tmp_path) == 10


def test_the_next_collector_works_elsewhere(tmp_path, monkeypatch):
    """A commit that was interrupted before its files had names is completed from whatever folder."""
    monkeypatch.chdir(tmp_path)
    dataset = Dataset("flows/%H.parquet")
    dataset.seen("s", "a").add(1)
    dataset.add("s", batch(4000))

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", kill)
        with pytest.raises(KeyboardInterrupt):
            dataset.commit()
    dataset._lock.close()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    again = Dataset(str(tmp_path / "flows" / "%H.parquet"))
    assert not again.seen("s", "a").add(1)
    again.close()
    assert rows(tmp_path) == 4000
    assert not list(tmp_path.rglob("*.part"))


def test_what_is_discarded(tmp_path, capfd):
    """A file that was begun goes away without a word of the library that writes it."""
    dataset = Dataset(str(tmp_path / "%H.parquet"))
    dataset.add("s", batch(GROUP_ROWS))
    dataset.close()
    del dataset
    gc.collect()
    assert not list(tmp_path.rglob("*.part"))
    assert capfd.readouterr().err == ""


DAMAGES = {
    '"version": 1': '"version": 2', '"commits": 1': '"commits": "x"', "[[1, 1]]": "[[1, 1], 5]", '"ranges": [[1, 1]]':
    '"ranges": 8', '"messages"': '"letters"', '"files": [[': '"files": [[1, 2, ',
}  # fmt: skip


@pytest.mark.parametrize("damage", [*DAMAGES, "[1]", "7", "{}", ""])
def test_a_state_that_is_damaged(tmp_path, damage):
    """One sentence that names the file and the way out, and no traceback; the folder is free for another collector."""
    pattern = str(tmp_path / "%H.parquet")
    dataset = Dataset(pattern)
    dataset.seen("s", "a").add(1)
    dataset.add("s", batch(10))
    dataset.commit()
    dataset.close()
    state = (tmp_path / STATE).read_text()
    assert damage not in DAMAGES or damage in state
    (tmp_path / STATE).write_text(state.replace(damage, DAMAGES[damage]) if damage in DAMAGES else damage)
    with pytest.raises(UsageError, match=f"{STATE}: this is damaged, or of another version") as refused:
        Dataset(pattern)
    assert "another folder" in refused.value.hint
    (tmp_path / STATE).write_text(state)
    again = Dataset(pattern)
    assert (again.commits, again.sensors["s", "a"].ranges) == (1, [[1, 1]])
    again.close()
