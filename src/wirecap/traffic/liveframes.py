"""Send copies of one frame from inside the kernel: the fastest source there is without special hardware.

An XDP program runs on frames of the kernel's own (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES,
Linux 5.18; Documentation/bpf/bpf_prog_run.rst) and redirects them to an interface.  A veth passes them
on only while its other end is up and has an XDP program or GRO; they arrive there on queue (number of
the sending CPU modulo queues), and that end's kernel work runs on the sender's CPU.  The test run does
not say how many frames the interface took, so that they are counted by a veth's own ``xdp_xmit``
counters; other senders that redirect to the same veth at the same time are counted too.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import asm, bpf, ethtool, netlink, netns

BATCH_MAX = 256  # TEST_XDP_MAX_BATCH, net/bpf/test_run.c
PIECE = 1 << 16
"""Frames of one system call at full speed: some 25 ms, so that ``stop`` is soon seen."""
FRAME_MAX = 4096 - 256 - 320 - 112
"""Longest frame in bytes: one page less XDP_PACKET_HEADROOM, struct skb_shared_info and the test run's own head
(measured on Linux 6.18, x86-64)."""
TICK_NS = 1_000_000


class LiveFrames:
    """Sends copies of ``frame`` to ``interface`` of network namespace ``namespace`` (None: the caller's).

    With ``sequence_at`` each copy carries its number, from ``first``, as 8 bytes in network order at that
    offset.  ``cpu`` pins the sending thread, and so chooses the receiving queue of a veth.  One sender per
    object; for several queues take an object and a thread for each.
    """

    def __init__(
        self,
        interface: str,
        frame: bytes,
        *,
        namespace: str | None = None,
        sequence_at: int | None = None,
        first: int = 0,
        cpu: int | None = None,
        batch: int = 64,
    ) -> None:
        if not 14 <= len(frame) <= FRAME_MAX:
            raise UsageError(f"a live frame of {len(frame)} bytes", f"the kernel takes 14 to {FRAME_MAX}")
        if sequence_at is not None and not 0 <= sequence_at <= len(frame) - 8:
            raise UsageError(f"no 8 bytes at offset {sequence_at}", f"the frame has {len(frame)}")
        if not 1 <= batch <= BATCH_MAX:
            raise UsageError(f"batches of {batch} frames", f"the kernel takes 1 to {BATCH_MAX}")
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            allowed = ", ".join(map(str, sorted(os.sched_getaffinity(0))))
            raise UsageError(f"CPU {cpu} is not ours", f"allowed: {allowed}")
        self.interface, self.frame, self.namespace = interface, frame, namespace
        self.cpu, self.batch, self.first = cpu, batch, first
        self._index = netns.call(namespace, netlink.interface, interface).index
        self._counter = bpf.Map(bpf.ARRAY, 8, 1, name="wirecap_sent")
        self._counter.update(0, (first % 2**64).to_bytes(8, "little"))
        self._program = bpf.Program(asm.assemble(_program(self._index, self._counter.fd, sequence_at)), "wirecap_send")
        self._held = Held(self._program)
        self._stopped = False

    @property
    def attempted(self) -> int:
        """How many frames were given to the interface so far, taken or not."""
        return (int(self._counter.lookup(0)[0]) - self.first) % 2**64

    def send(self, count: int) -> int:
        """Send so many at full speed; returns how many the interface took."""
        return netns.call(self.namespace, self._send, count, 0.0, 0)

    def send_paced(self, count: int, rate_pps: float, burst: int | None = None) -> int:
        """Send so many at a mean rate, in bursts of ``burst`` (default: 1 ms' worth); returns how many were taken."""
        if rate_pps <= 0:
            raise UsageError(f"a rate of {rate_pps} packets a second", "it is above 0")
        size = burst or max(1, round(rate_pps * TICK_NS / 1e9))
        return netns.call(self.namespace, self._send, count, float(rate_pps), size)

    def stop(self) -> None:
        """End a ``send`` that another thread is in, within some 25 ms."""
        self._stopped = True

    def close(self) -> None:
        """Give the kernel's program and counter back."""
        self._held.close()
        self._program.close()
        self._counter.close()

    def __enter__(self) -> LiveFrames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, count: int, rate_pps: float, burst: int) -> int:
        taken_before, attempted_before = taken_by(self.interface), self.attempted
        goal = attempted_before + count
        self._stopped = False
        start = time.monotonic_ns()
        with _pinned(self.cpu):
            while (left := goal - self.attempted) > 0 and not self._stopped:
                if rate_pps:
                    due = start + round((self.attempted - attempted_before) / rate_pps * 1e9)
                    time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
                self._run(min(left, burst or PIECE))
        if taken_before is None:
            return self.attempted - attempted_before
        taken = (taken_by(self.interface) or 0) - taken_before
        if count > 0 and not taken and not self._stopped:
            hint = "it is down, or has neither an XDP program nor GRO ('wirecap testbed up --gro')"
            raise SystemCallError(f"{self.interface}: the other end took no frame", errno.EOPNOTSUPP, hint)
        return taken

    def _run(self, count: int) -> None:
        try:
            self._program.run_live(self.frame, count, min(self.batch, count))
        except SystemCallError as error:
            if error.errno == errno.EINVAL:
                raise SystemCallError(error.message, error.errno, "they need Linux 5.18") from None
            if error.errno != errno.EINTR:  # a signal: the counter says how far it came
                raise


def _program(ifindex: int, counter: int, sequence_at: int | None) -> list[asm.Insn]:
    """Count, write the number into the frame, redirect.  Registers: r1 = struct xdp_md, r2 = number."""
    program: list[asm.Insn] = [
        ("ld_map_value", 3, 0, 0, counter),
        ("ldxdw", 2, 3, 0, 0),
        ("mov_reg", 4, 2, 0, 0),
        ("add_imm", 4, 0, 0, 1),
        ("stxdw", 3, 4, 0, 0),  # one sender: no atomic needed
    ]
    if sequence_at is not None:
        program += [
            ("ldxw", 5, 1, 0, 0),  # xdp_md.data
            ("ldxw", 3, 1, 4, 0),  # xdp_md.data_end
            ("mov_reg", 4, 5, 0, 0),
            ("add_imm", 4, 0, 0, sequence_at + 8),
            ("jgt_reg", 4, 3, "send", 0),
            ("be64", 2, 0, 0, 64),
            ("stxdw", 5, 2, sequence_at, 0),
            ("label", "send"),
        ]
    program += [
        ("mov_imm", 1, 0, 0, ifindex),
        ("mov_imm", 2, 0, 0, 0),
        ("call", 0, 0, 0, bpf.HELPERS["redirect"]),
        ("exit", 0, 0, 0, 0),
    ]
    return program


def taken_by(interface: str) -> int | None:
    """A veth's count of redirected frames; None for a driver that does not count them."""
    counters = ethtool.statistics(interface)
    sent = [value for name, value in counters.items() if name.endswith("_xdp_xmit")]
    return sum(sent) if sent else None


class Held:
    """A program, attached where no packet ever is: on the loopback interface of a nameless namespace.

    A test run adds its program to the kernel's XDP dispatcher and removes it again, and waits for RCU both
    times (24 ms, bpf_dispatcher_change_prog); a program that is attached anywhere is there already.
    """

    def __init__(self, program: bpf.Program) -> None:
        self._link: bpf.Link | None = None
        try:
            self._link, self._namespace = netns.call_in_new(lambda: program.attach(1, bpf.XDP_SKB_MODE))
        except SystemCallError:
            pass  # no CAP_SYS_ADMIN: every call is 24 ms longer

    def close(self) -> None:
        if self._link:
            self._link.close()
            os.close(self._namespace)
            self._link = None


@contextmanager
def _pinned(cpu: int | None) -> Iterator[None]:
    """The calling thread on one CPU, for a while."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
