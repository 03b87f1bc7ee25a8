"""Errors that reach a user: one line that says what went wrong and where, and a hint that says what to do."""

from __future__ import annotations

from collections.abc import Iterable


class WirecapError(Exception):
    """A run that failed (exit status 1).

    ``hint`` says what the user can do about it; it is printed after the message.
    """

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(WirecapError):
    """Bad usage or bad input (exit status 2)."""

    exit_status = 2


class SystemCallError(UsageError):
    """The kernel refused a call: ``errno`` says why, ``message`` names the call and what it was about."""

    def __init__(self, message: str, errno: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno


def suggest(written: str, known: Iterable[str]) -> str:
    """``did you mean count?``, or an empty string if no known name is close."""
    from difflib import get_close_matches

    close = get_close_matches(written, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
