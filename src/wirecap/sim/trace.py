"""A capture file as a workload: its packets at their times, on the queues that RSS would have chosen."""

from __future__ import annotations

import numpy as np

from wirecap.errors import UsageError
from wirecap.files.interface import LINKTYPE_ETHERNET
from wirecap.files.reader import open_capture
from wirecap.kernels import jit
from wirecap.kernels import scan_state as at
from wirecap.kernels.pcap_read import scan
from wirecap.sim.simulate import Tell
from wirecap.sim.workload import Runs, Workload
from wirecap.traffic.steering import Rss

ROW = 65_536
SPEEDS = (1e-6, 1e6)


def read(path: str, queues: int, speed: float = 1.0, tell: Tell | None = None) -> Workload:
    """The packets of a pcap or pcapng file on so many queues.

    speed: how many times faster than recorded.  A packet whose stamp goes back arrives together with the one
    before it.  tell: hears of kernels that have to be compiled first.
    """
    if not SPEEDS[0] <= speed <= SPEEDS[1]:
        raise UsageError(f"a speed of {speed:g}", "1 is as recorded, 2 twice as fast")
    rss = Rss(queues)
    jit.prepare([scan, *rss.kernels()], tell)
    address, stamp = np.zeros(ROW, np.int64), np.zeros(ROW, np.int64)
    captured, original = np.zeros(ROW, np.uint32), np.zeros(ROW, np.uint32)
    stamps, where = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    with open_capture(path) as file:
        while count := file.fill(address, captured, original, stamp, ROW)[0]:
            linktype = file.interfaces[int(file.state[at.INTERFACE])].linktype
            if linktype != LINKTYPE_ETHERNET:
                raise UsageError(f"{path}: link type {linktype}, no Ethernet", "RSS needs Ethernet frames")
            stamps.append(stamp[:count].copy())
            where.append(rss.choose(file.arena, address, captured, count))
            file.release(int(address[0]))
    times = np.maximum.accumulate(np.concatenate(stamps))
    if not times.size:
        raise UsageError(f"{path}: there is no packet in it", "simulate a file with packets")
    elapsed = np.round((times - times[0]) * (1000 / speed)).astype(np.int64)
    queue = np.concatenate(where)
    return Workload(f"{path} at {speed:g}x", tuple(Runs.at(elapsed[queue == number]) for number in range(queues)))
