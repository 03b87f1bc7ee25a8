"""The other end of a wire, in the kernel: a counter that drops what arrives, or a redirect to another interface."""

from __future__ import annotations

from wirecap.linux import bpf, netlink, netns
from wirecap.linux.asm import Insn, assemble

_DATA, _DATA_END, _RX_QUEUE = 0, 4, 16  # struct xdp_md, linux/bpf.h


class FarEnd:
    """An XDP program on ``interface`` that counts packets and bytes, per queue, and then drops or redirects them.

    redirect_to: the interface they are sent on; None drops them.
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
        """Packets that arrived so far, by queue."""
        return [int(self._counters.lookup(queue)[:, 0].sum()) for queue in range(self.queues)]

    @property
    def packets(self) -> int:
        return sum(self.per_queue())

    @property
    def octets(self) -> int:
        return sum(int(self._counters.lookup(queue)[:, 1].sum()) for queue in range(self.queues))

    def close(self) -> None:
        self._link.close()
        self._program.close()
        self._counters.close()

    def __enter__(self) -> FarEnd:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _count(counters: int) -> list[Insn]:
    """Registers: r6 = struct xdp_md, r0 = this CPU's counter of the queue."""
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
