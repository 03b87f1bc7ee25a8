"""The far end of a wire, in the kernel: counts what arrives, or how long it took, then drops it or sends it on."""

from __future__ import annotations

from wirecap.linux import bpf, netlink, netns
from wirecap.linux.asm import Insn, assemble

_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16  # struct xdp_md, linux/bpf.h


class FarEnd:
    """An XDP program on ``interface`` that counts packets and bytes per queue, then drops or redirects them.

    redirect_to: the interface to send them out of; None drops them.
    """

    def __init__(self, interface: str, namespace: str | None = None, redirect_to: str | None = None) -> None:
        facts = netns.call(namespace, netlink.interface, interface)
        self._counters = bpf.Map(bpf.PERCPU_ARRAY, 16, facts.rx_queues)
        end: list[Insn] = [("mov_imm", 0, 0, 0, bpf.XDP_DROP)]
        if redirect_to is not None:
            target = netns.call(namespace, netlink.interface, redirect_to).index
            end = [
                ("mov_imm", 1, 0, 0, target),
                ("mov_imm", 2, 0, 0, 0),
                ("call", 0, 0, 0, bpf.HELPERS["redirect"]),
            ]
        self._program = bpf.Program(assemble([*_count(self._counters.fd), *end, ("exit", 0, 0, 0, 0)]))
        self._link = netns.call(namespace, self._program.attach, facts.index, bpf.XDP_DRV_MODE)
        self.queues = facts.rx_queues

    def per_queue(self) -> list[int]:
        """Packets that have arrived so far, by queue."""
        return [int(self._counters.lookup(queue)[:, 0].sum()) for queue in range(self.queues)]

    @property
    def packets(self) -> int:
        return sum(self.per_queue())

    @property
    def bytes(self) -> int:
        return sum(int(self._counters.lookup(queue)[:, 1].sum()) for queue in range(self.queues))

    def close(self) -> None:
        self._link.close()
        self._program.close()
        self._counters.close()

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Stopwatch:
    """An XDP program on ``interface`` that drops frames and keeps how long they took since the time stamped into them.

    stamp_at: where that is in the frame (LiveFrames' ``stamp_at``).  Times are kept in steps of STEP_NS.
    """

    STEP_NS, STEPS = 1024, 65536

    def __init__(self, interface: str, stamp_at: int, namespace: str | None = None) -> None:
        facts = netns.call(namespace, netlink.interface, interface)
        self._counters = bpf.Map(bpf.PERCPU_ARRAY, 8, self.STEPS)
        self._program = bpf.Program(assemble(_time(self._counters.fd, stamp_at, self.STEP_NS, self.STEPS)))
        self._link = netns.call(namespace, self._program.attach, facts.index, bpf.XDP_DRV_MODE)

    def counts(self) -> list[int]:
        """Frames that took so many steps; the last one also has all that took longer."""
        return [int(self._counters.lookup(step)[:, 0].sum()) for step in range(self.STEPS)]

    def close(self) -> None:
        self._link.close()
        self._program.close()
        self._counters.close()

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _time(counters: int, stamp_at: int, step_ns: int, steps: int) -> list[Insn]:
    """r6 = struct xdp_md, r7 = how long the frame took."""
    return [
        ("mov_reg", 6, 1, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["ktime_get_ns"]),
        ("mov_reg", 7, 0, 0, 0),
        ("ldxw", 5, 6, _DATA, 0),
        ("ldxw", 3, 6, _DATA_END, 0),
        ("mov_reg", 4, 5, 0, 0),
        ("add_imm", 4, 0, 0, stamp_at + 8),
        ("jgt_reg", 4, 3, "done", 0),
        ("ldxdw", 4, 5, stamp_at, 0),
        ("sub_reg", 7, 4, 0, 0),
        ("div_imm", 7, 0, 0, step_ns),
        ("jlt_imm", 7, 0, "known", steps),
        ("mov_imm", 7, 0, 0, steps - 1),
        ("label", "known"),
        ("ld_map_fd", 1, 0, 0, counters),
        ("stxw", 10, 7, -4, 0),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        ("call", 0, 0, 0, bpf.HELPERS["map_lookup_elem"]),
        ("jeq_imm", 0, 0, "done", 0),
        ("ldxdw", 5, 0, 0, 0),
        ("add_imm", 5, 0, 0, 1),
        ("stxdw", 0, 5, 0, 0),
        ("label", "done"),
        ("mov_imm", 0, 0, 0, bpf.XDP_DROP),
        ("exit", 0, 0, 0, 0),
    ]


def _count(counters: int) -> list[Insn]:
    """Count the packet; r6 = struct xdp_md, r0 = this CPU's counter for the queue."""
    return [
        ("mov_reg", 6, 1, 0, 0),
        ("ldxw", 7, 6, _RX_QUEUE, 0),
        ("stxw", 10, 7, -4, 0),
        ("ld_map_fd", 1, 0, 0, counters),
        ("mov_reg", 2, 10, 0, 0),
        ("add_imm", 2, 0, 0, -4),
        ("call", 0, 0, 0, bpf.HELPERS["map_lookup_elem"]),
        ("jeq_imm", 0, 0, "counted", 0),
        ("ldxw", 3, 6, _DATA_END, 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("sub_reg", 3, 2, 0, 0),
        ("ldxdw", 5, 0, 0, 0),
        ("add_imm", 5, 0, 0, 1),
        ("stxdw", 0, 5, 0, 0),
        ("ldxdw", 5, 0, 8, 0),
        ("add_reg", 5, 3, 0, 0),
        ("stxdw", 0, 5, 8, 0),
        ("label", "counted"),
    ]
