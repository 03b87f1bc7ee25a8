"""What a worker does: one part of a file through the handler."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from wirecap.config.capture import CaptureConfig
from wirecap.engine.accounting import Summary
from wirecap.errors import UsageError, WirecapError
from wirecap.files.part import Context, Range, context_of
from wirecap.files.reader import CaptureFile
from wirecap.handlers.handler import Handler
from wirecap.kernels.file.read import OUTSIDE
from wirecap.mapping.frames import mark_of
from wirecap.mapping.handler_text import HandlerText
from wirecap.mapping.inputs import Input, open_input
from wirecap.run import build
from wirecap.source.file import FileSource

LOOK_S = 0.2


@dataclass(frozen=True)
class Job:
    """What is done with every part."""

    handler: HandlerText
    filter: str = ""
    keep_going: bool = False


@dataclass(frozen=True)
class Task:
    """One part: of which file, and which bytes of it; None: the whole file, which cannot be divided."""

    job: Job
    input: Input
    range: Range | None


@dataclass
class PartResult:
    """What came of a part.  start: where its first record begins, None if none does; end: where the record behind its
    last one begins: offsets, or marks in a file of frames.  before, after: what was described up to these places.
    handled: the handler's part.  outside: packets whose time int64 ns cannot hold.  failed: why it was not read, or not
    to its end: a message and a hint.  cpu_s: seconds of processor time."""

    start: int | None
    end: int
    before: Context = ()
    after: Context = ()
    received: int = 0
    received_bytes: int = 0
    filtered_out: int = 0
    delivered: int = 0
    failures: int = 0
    handled: Any = None
    outside: int = 0
    failed: tuple[str, str] = ("", "")
    cpu_s: float = 0.0


def run_part(task: Task) -> PartResult:
    """Raises WirecapError for what is no fault of the file: a handler that fails, a filter that does not fit."""
    cpu = time.process_time()
    begin = task.range.begin if task.range else 0
    try:
        file = open_input(task.input, task.range)
    except (UsageError, OSError) as error:
        message = error.message if isinstance(error, UsageError) else f"{task.input.path}: {error.strerror or error}"
        return PartResult(None, begin, failed=(message, getattr(error, "hint", "")))
    if file is None:
        return PartResult(None, begin)
    start, before = mark_of(file), context_of(file)
    found = _run(task.job, task.input, file, PartResult(start, start, before))
    found.cpu_s = time.process_time() - cpu
    return found


def _run(job: Job, input: Input, file: CaptureFile, found: PartResult) -> PartResult:
    source = FileSource(input.path, keep_apart=False, file=file)
    try:
        config = CaptureConfig(
            read_file=input.path, filter=job.filter, handlers=(job.handler.spec(),), keep_going=job.keep_going
        )
        application = build.application_of(config, None, source)
        handler: Handler | None = next(iter(application.handlers), None)
        if handler:
            handler.keep_parts()
        engine = build.engine_of(config, source, application)
        engine.claim()
        build.prepare(source, application)
        engine.open()
        engine.start()
        while engine.running():
            engine.changed.wait(LOOK_S)
            engine.changed.clear()
        engine.stop()
        failure = engine.failure()
        if failure and not (isinstance(failure, UsageError) and file.is_over):
            raise failure
        if failure:
            assert isinstance(failure, WirecapError)
            found.failed = failure.message, failure.hint
        _count(found, engine.summary())
        found.end, found.after = mark_of(file), context_of(file)
        found.failures = sum(application.failures[: len(application.handlers)])
        found.handled = handler.part() if handler else None
        found.outside = int(file.state[OUTSIDE])
        return found
    finally:
        source.close()


def _count(found: PartResult, summary: Summary) -> None:
    found.received, found.received_bytes = summary.total("received"), summary.total("received_bytes")
    found.filtered_out, found.delivered = summary.total("filtered_out"), summary.total("delivered")
