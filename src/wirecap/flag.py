"""What a signal handler may set."""

from __future__ import annotations


class Flag:
    """As much of a threading.Event as needs no lock: a signal comes while the same thread may hold that."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set
