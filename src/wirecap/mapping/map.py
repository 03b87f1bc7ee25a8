"""A handler over many files, on all cores or on a cluster: ``wirecap.map`` and ``wirecap map``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any

from wirecap.api import Outcome
from wirecap.config.handlers import kind_of
from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError, WirecapError
from wirecap.files.reader import note_of_times
from wirecap.handlers import table
from wirecap.handlers.handler import Handler, Setting
from wirecap.handlers.parts import Fold, Nothing
from wirecap.mapping.coordinator import PART_BYTES, Coordinator, Counts
from wirecap.mapping.handler_text import HandlerText, loading
from wirecap.mapping.inputs import inputs_of
from wirecap.mapping.part import Job
from wirecap.mapping.workers import Processes, Workers, copies_while, threads


def map_files(
    spec: HandlerSpec, paths: Sequence[str], filter: str = "", on: str | None = None, workers: int | None = None,
    keep_going: bool = False, to: Sequence[str] = (), part_bytes: int = PART_BYTES,
    say: Callable[[str], None] = lambda line: None, tell: Callable[[Counts, int], None] = lambda counts, size: None,
    own_process: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Map, and return the summary.  say: gets lines that the user should know; tell: the counts, and the bytes of all
    files, after each part.  own_process: whether this process is there for nothing else, so that copies of it may be
    workers.  Raises UsageError for what is wrong with the arguments or a file, WirecapError for what fails."""
    copies = copies_while(threads() if own_process else 0)
    if loading:
        raise UsageError(
            "a handler's file calls wirecap.map while the workers load it", 'write it under if __name__ == "__main__":'
        )
    if filter:
        from wirecap.find.fitting import check_filter  # with libpcap

        check_filter(filter)
    text = HandlerText.of(_checked(spec, to))
    handler = table.make(text.spec(), Setting(filter=filter, to=tuple(to)))
    handler.compile(lambda name: say(f"wirecap: compiling {name} (once)"))
    inputs, lines = inputs_of(paths)
    for line in [*lines, *handler.warnings()]:
        say(f"wirecap: {line}")
    fold = handler.fold()
    if fold is None:
        say(f"wirecap: handler {handler.name} has no state that could be merged: one worker reads the files in order")
    size = sum(input.size for input in inputs)
    started = time.monotonic()
    pool = _workers(on, workers, fold is None, copies)
    try:
        coordinator = Coordinator(
            Job(text, filter, keep_going), inputs, pool, fold, divide=fold is not None and handler.divides,
            part_bytes=part_bytes, keep_going=keep_going, tell=lambda counts: tell(counts, size),
        )  # fmt: skip
        counts = coordinator.run()
    finally:
        pool.close()
    run = {
        "workers": pool.count, "duration_s": round(time.monotonic() - started, 6),
        "worker_cpu_s": round(counts.cpu_s, 6), "parts": counts.parts, "read_again": counts.read_again,
        "retried": counts.retried,
    }  # fmt: skip
    return _summary(counts, handler, fold, run)


def _checked(spec: HandlerSpec, to: Sequence[str]) -> HandlerSpec:
    if reason := kind_of(spec).unmapped:
        raise UsageError(f"handler {spec.name} cannot be mapped over files", reason)
    table.complete([spec], None, None, to)
    return spec


def _workers(on: str | None, count: int | None, alone: bool, copies: Callable[[], bool]) -> Workers:
    """alone: only one of them may be used.  copies: whether copies of this process can be some."""
    if on is not None:
        from wirecap.mapping.cluster import Cluster

        if count is not None:
            raise UsageError("--workers does not apply to --on: a cluster has its own workers", "leave --workers out")
        return Cluster(on, alone)
    cores = len(os.sched_getaffinity(0))
    if count is not None and not 1 <= count <= 1024:
        raise UsageError(
            f"unsupported number of workers: {count}", f"use 1 to 1024, or leave --workers out to use {cores}"
        )
    return Processes(1 if alone else count or cores, copies)


def _summary(counts: Counts, handler: Handler, fold: Fold | None, run: dict[str, Any]) -> dict[str, Any]:
    files = []
    for file in counts.files:
        row = {**file.input.identity(), "packets": file.packets, "packet_bytes": file.received_bytes}
        files.append({**row, "failed": file.failed} if file.failed else row)
    summary: dict[str, Any] = {
        "engine": "file",
        "files": files,
        "failed": sum(bool(file.failed) for file in counts.files),
        "packets": {
            "received": counts.received, "delivered": counts.delivered, "filtered_out": counts.filtered_out,
            "pending": 0, "written": 0, "forwarded": 0, "offloaded": 0, "dropped": 0, "drops": {},
        },
        "bytes": {"received": counts.received_bytes, "written": 0},
        "notes": note_of_times(counts.outside),
    }  # fmt: skip
    if not isinstance(fold, Nothing):
        summary["handlers"] = [{"name": handler.name, "result": _result(handler, fold), "failures": counts.failures}]
    return {**summary, "run": run}


def _result(handler: Handler, fold: Fold | None) -> Any:
    try:
        return fold.result() if fold else None
    except WirecapError:
        raise
    except Exception as error:  # a user's merge
        raise WirecapError(f"handler {handler.name}: its merge failed: {handler.explain(error)}") from error


def map(
    handler: Any, files: str | PathLike[str] | Iterable[str | PathLike[str]], *, filter: str = "",
    on: str | None = None, workers: int | None = None, keep_going: bool = False, to: str | Sequence[str] = (),
) -> Outcome:  # fmt: skip
    """Run a handler over capture files and folders of them, on all cores of this machine or on a cluster.

    handler: as for ``wirecap.capture``; a function must stand in a file, because workers get it as source text.
    filter: a tcpdump expression.  workers: how many processes.  on: the address of a Dask scheduler.  keep_going:
    files that fail are named in the summary, and the others count.  to: where records of ``"flows"`` go.
    The result is the same for any number of workers.  Raises wirecap.UsageError for wrong arguments and files,
    wirecap.WirecapError for what fails.
    """
    paths = [files] if isinstance(files, (str, PathLike)) else list(files)
    if isinstance(handler, str):
        spec = HandlerSpec.parse(handler)
    else:
        spec = HandlerSpec(str(getattr(handler, "__name__", getattr(handler, "name", "handler"))), given=handler)
    targets = [to] if isinstance(to, str) else list(to)
    summary = map_files(spec, [os.fspath(path) for path in paths], filter, on, workers, keep_going, targets)
    return Outcome(summary, [row["result"] for row in summary.get("handlers", [{"result": None}])])
