"""``pkt_handler``: the paper's load.  ``x=300`` filters each packet 300 times; ``rate=38844`` paces a thread."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter
from wirecap.filters.native import NativeFilter
from wirecap.handlers.base import NativeHandler, Selection
from wirecap.kernels.pace import INTERVAL_PS, pace
from wirecap.kernels.select import repeat
from wirecap.units import parse_packet_rate

_EXPRESSION = "udp"
"""What is applied x times where the capture has no filter of its own; the paper does not name its filter."""


class Load:
    """Applies the filter x times to each packet and discards it."""

    name = "pkt_handler"
    process = staticmethod(repeat)

    def __init__(self, times: int, filter: NativeFilter) -> None:
        self._times, self._filter = times, filter

    def state(self, consumer: int) -> NDArray[np.int64]:
        return self._filter.repeated(self._times)


class Paced:
    """Lets a thread handle ``rate_pps`` packets a second, sleeping in between."""

    name = "pkt_handler"
    process = staticmethod(pace)

    def __init__(self, rate_pps: float) -> None:
        self._rate_pps = rate_pps

    def state(self, consumer: int) -> NDArray[np.int64]:
        state = np.zeros(32, np.int64)
        state[INTERVAL_PS] = round(1e12 / self._rate_pps)
        return state


def make(options: Mapping[str, str], selection: Selection) -> NativeHandler:
    unknown = set(options) - {"x", "rate"}
    if unknown or len(options) != 1:
        problem = f"no option {min(unknown)!r}" if unknown else "either x or rate"
        raise UsageError(f"handler pkt_handler has {problem}", "write pkt_handler:x=300 or pkt_handler:rate=38844")
    if "rate" in options:
        rate_pps = parse_packet_rate(options["rate"])
        if rate_pps < 1:
            raise UsageError("pkt_handler: a rate of 0 handles no packet", "write pkt_handler:rate=38844")
        return Paced(rate_pps)
    if not options["x"].isdigit():
        raise UsageError(f"pkt_handler: x is {options['x']!r}, not a count", "write pkt_handler:x=300")
    filter = selection.owner or NativeFilter(compile_filter(_EXPRESSION))
    return Load(int(options["x"]), filter)
