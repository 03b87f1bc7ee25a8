"""``pkt_handler``: the paper's load.  ``x=300`` filters each packet 300 times; ``rate=38844`` paces a thread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.handlers.handler import Handler, Selection, Setting
from wirecap.handlers.parts import Nothing
from wirecap.kernels.handlers.filter import repeat
from wirecap.kernels.handlers.pace import INTERVAL_PS, pace
from wirecap.units import parse_packet_rate

_EXPRESSION = "udp"
"""The filter to apply x times if the capture has none of its own; the paper does not name its filter."""


class PktHandler(Handler):
    """Either of the two loads."""

    name = "pkt_handler"

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Handler:
        unknown = set(options) - {"x", "rate"}
        if unknown or len(options) != 1:
            problem = f"has no option {min(unknown)!r}" if unknown else "needs either x or rate"
            raise UsageError(f"handler pkt_handler {problem}", "write pkt_handler:x=300 or pkt_handler:rate=38844")
        if "rate" in options:
            rate_pps = parse_packet_rate(options["rate"])
            if rate_pps < 1:
                raise UsageError("pkt_handler: the rate must be above 0", "write pkt_handler:rate=38844")
            return Paced(rate_pps)
        if not options["x"].isdigit():
            raise UsageError(f"pkt_handler: x must be a count, not {options['x']!r}", "write pkt_handler:x=300")
        return Filters(int(options["x"]), _filter_of(setting.selection))

    def fold(self) -> Nothing:
        return Nothing()


class Filters(PktHandler):
    """Applies the filter x times to each packet and discards it."""

    process = staticmethod(repeat)

    def __init__(self, times: int, filter: NativeFilter) -> None:
        self._times, self._filter = times, filter

    def state(self, consumer: int) -> NDArray[np.int64]:
        return self._filter.repeated(self._times)


class Paced(PktHandler):
    """Lets a thread handle ``rate_pps`` packets per second, sleeping in between."""

    process = staticmethod(pace)

    def __init__(self, rate_pps: float) -> None:
        self._rate_pps = rate_pps

    def state(self, consumer: int) -> NDArray[np.int64]:
        state = np.zeros(32, np.int64)
        state[INTERVAL_PS] = round(1e12 / self._rate_pps)
        return state


def _filter_of(selection: Selection) -> NativeFilter:
    """The capture's own filter where it has one."""
    if selection.owner is None:
        return NativeFilter(compile_filter(_EXPRESSION))
    filters = set(selection.owner.by_link.values())
    if len(filters) > 1:
        raise UsageError("pkt_handler: the interfaces have different filters", "capture each of them alone")
    return filters.pop()
