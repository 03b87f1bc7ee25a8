"""``count``: packets and bytes."""

from __future__ import annotations

from wirecap.handlers.handler import Handler
from wirecap.handlers.parts import Nothing


class Count(Handler):
    """Does nothing, because every thread counts what passes anyway."""

    name = "count"
    in_row = False

    def fold(self) -> Nothing:
        return Nothing()
