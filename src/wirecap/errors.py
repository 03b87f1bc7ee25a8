"""Errors that reach a user: one line that says what and where, and a hint that says what to do."""

from __future__ import annotations


class WirecapError(Exception):
    """A run that failed (exit status 1).

    ``hint`` is one sentence that tells the user what to try; it is printed after the message.
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
    """The kernel refused: ``errno`` says why, ``message`` names the call and its object."""

    def __init__(self, message: str, errno: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.errno = errno
