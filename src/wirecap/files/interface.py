"""What a capture file says about an interface, and the words that kernels read of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wirecap.kernels import scan_state as at

_INT64 = 2**63 - 1
LINKTYPE_ETHERNET = 1


@dataclass(frozen=True)
class Interface:
    """One interface of a capture file.

    ``resolution`` is if_tsresol's octet: 10**-n seconds, or 2**-n with the high bit set.
    ``snaplen`` is in bytes, 0 for unlimited; ``offset_s`` is added to each time.
    """

    linktype: int = LINKTYPE_ETHERNET
    snaplen: int = 0
    resolution: int = 6
    offset_s: int = 0
    name: str = ""
    description: str = ""
    filter: str = ""

    @property
    def dlt(self) -> int:
        """libpcap's DLT_ number on Linux, which filters are compiled for: it differs for the oldest types."""
        return {100: 11, 101: 12, 102: 15, 103: 16}.get(self.linktype, self.linktype)

    def words(self) -> npt.NDArray[np.int64]:
        """(INTERFACE_WORDS,) int64, as kernels/scan_state.py lays them out."""
        exponent = self.resolution & 0x7F
        multiplier, divisor, shift = 1, 1, 0
        if not self.resolution & 0x80:
            multiplier, divisor = 10 ** max(9 - exponent, 0), min(10 ** max(exponent - 9, 0), _INT64)
        elif exponent == 0:
            multiplier = 1_000_000_000
        elif exponent <= 62:
            shift = exponent
        else:
            divisor = _INT64  # 64 bits of such ticks are less than a second
        offset_ns = max(min(self.offset_s * 1_000_000_000, _INT64 // 2), -_INT64 // 2)
        ns_lowest, ns_highest = min(-_INT64 - offset_ns, 0), max(_INT64 - offset_ns, 0)
        ns_lowest, ns_highest = max(ns_lowest, -_INT64), min(ns_highest, _INT64)
        if shift:
            lowest, highest = (ns_lowest << shift) // 1_000_000_000 + 1, (ns_highest << shift) // 1_000_000_000 - 1
        else:
            lowest, highest = -(-ns_lowest * divisor // multiplier), ns_highest * divisor // multiplier
        out = np.zeros(at.INTERFACE_WORDS, dtype=np.int64)
        out[at.LARGEST] = max(at.MAX_CAPTURED, self.snaplen)
        out[at.SNAPLEN] = self.snaplen
        out[at.MULTIPLIER], out[at.DIVISOR], out[at.SHIFT] = multiplier, divisor, shift
        out[at.OFFSET_NS], out[at.LINKTYPE] = offset_ns, self.linktype
        out[at.LOWEST], out[at.HIGHEST] = max(lowest, -_INT64), min(highest, _INT64)
        return out
