"""Lines on standard error: plain text, or with ``--log-format json`` an object a line for whoever collects logs."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

FORMATS = ("text", "json")
PREFIX = "wirecap: "
_format = "text"
_begun = False


def use(format: str) -> None:
    """Say in which of FORMATS this process logs from now on."""
    global _format, _begun
    _format = format
    _begun = False


def is_json() -> bool:
    return _format == "json"


def begin_run() -> None:
    """Say that packets are captured from now on, and not only text printed."""
    global _begun
    _begun = True


def has_begun() -> bool:
    """Whether begin_run was called since the format was chosen."""
    return _begun


def as_json(message: str, event: str, level: str, fields: dict[str, Any]) -> str:
    """``{"time": ..., "level": ..., "event": ..., "message": ..., ...}``; the time is UTC, in microseconds.

    level: info | warning | error.  event: a word for programs, which stays the same when the message's words change.
    """
    seconds, ns = divmod(time.time_ns(), 10**9)
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ns // 1000:06}Z"
    first = {"time": when, "level": level, "event": event, "message": message.removeprefix(PREFIX)}
    return json.dumps(first | fields, default=str)


def shown(text: str) -> str:
    """What a terminal may be sent of a text that others wrote: control characters are spelt out."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def tell(message: str, event: str, level: str = "info", **fields: Any) -> None:
    """A line on standard error; the fields are for JSON alone, as the message has them in words.  Raises OSError."""
    line = as_json(message, event, level, fields) if is_json() else shown(message)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
