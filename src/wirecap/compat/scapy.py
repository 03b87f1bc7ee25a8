"""scapy's sockets on this engine: ``sniff(opened_socket=WirecapListenSocket("eth1"))``, or for all, ``use_wirecap()``.

scapy is the user's own: nothing else in WireCAP imports it.  docs/compat.md lists what differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from wirecap.compat.handle import FileHandle, Handle, HandleError, LiveHandle, Rows, compiled

try:
    from scapy.config import conf
    from scapy.data import MTU
    from scapy.error import Scapy_Exception
    from scapy.interfaces import network_name
    from scapy.packet import Packet
    from scapy.supersocket import SuperSocket
    from scapy.utils import EDecimal
except ModuleNotFoundError as error:
    raise ImportError(f"wirecap.compat.scapy needs {error.name}: pip install scapy", name=error.name) from None

_NANOSECOND = Decimal(10) ** -9
_POLL_S = 0.05


def _numbers(rows: Rows) -> list[tuple[int, int]]:
    """(ns since the epoch, bytes on the wire) of each packet."""
    return list(zip(rows.timestamps.tolist(), rows.original.tolist(), strict=True))


class WirecapSocket(SuperSocket):  # type: ignore[misc]
    """Receives what comes in on an interface, and sends."""

    desc = "read/write packets at layer 2 using WireCAP"
    nonblocking_socket = True
    direction = "in"
    sends = True

    def __init__(
        self, iface: Any = None, type: int = 3, promisc: bool | None = None, filter: str | None = None,
        nofilter: int = 0, monitor: Any = None,
    ) -> None:  # fmt: skip
        """iface: an interface, or the path of a capture file; the other arguments are those of scapy's own sockets."""
        self.iface = str(iface) if isinstance(iface, Path) or "/" in str(iface) else network_name(iface or conf.iface)
        self.promisc = bool(conf.sniff_promisc if promisc is None else promisc)
        self._handle: Handle | None = None
        self._failure: Exception | None = None
        try:
            self._handle = self._open()
            self._set_filter(None if nofilter else filter, bool(nofilter))
        except HandleError as error:
            self.close()
            raise Scapy_Exception(str(error)) from None
        layers = conf.l2types.num2layer | conf.l3types.num2layer
        self.LL = layers.get(self._handle.dlt, conf.default_l2)

    def _open(self) -> Handle:
        if "/" in self.iface:
            return FileHandle(self.iface, _numbers)
        handle = LiveHandle(self.iface, _numbers, promiscuous=self.promisc)
        if self.direction != "inout":
            handle.direct(self.direction)
        return handle

    def _set_filter(self, filter: str | None, bare: bool) -> None:
        if conf.except_filter and not bare:
            filter = f"({filter}) and not ({conf.except_filter})" if filter else f"not ({conf.except_filter})"
        if filter and self._handle:
            try:
                self._handle.set_filter(compiled(filter, self._handle.dlt, self._handle.snaplen, True, 0))
            except HandleError as error:
                raise HandleError(f"Cannot set filter: {error}") from None

    def recv(self, x: int = MTU, **kwargs: Any) -> Packet | None:
        """The next packet, None if there is none now.  Raises EOFError at the end of a file."""
        packet = super().recv(x, **kwargs)
        if packet is not None:
            packet.wirelen = self._wire_length
        return packet

    def recv_raw(self, x: int = MTU) -> tuple[Any, bytes | None, Any]:
        """(layer, bytes, time) of the next packet, None three times if there is none now."""
        handle = self._handle
        if handle is None:
            raise EOFError
        if not self._more(0.0):
            if handle.ended:
                raise EOFError
            return None, None, None
        if self._failure:
            failure, self._failure = self._failure, None
            raise failure
        (ns, self._wire_length), data = next(handle.pairs)
        seconds, rest = divmod(ns, 1_000_000_000)
        return self.LL, data[:x], EDecimal(seconds + rest * _NANOSECOND)

    def send(self, x: Any) -> int:
        """Send a packet, or the bytes of one; returns how many bytes."""
        if not self.sends:
            raise Scapy_Exception(f"Can't send anything with {self.__class__.__name__}")
        data = bytes(x)
        if isinstance(x, Packet):
            x.sent_time = time.time()
        if self._handle is None:
            raise Scapy_Exception("the socket is closed")
        try:
            self._handle.send(data)
        except HandleError as error:
            raise OSError(str(error)) from None
        return len(data)

    def fileno(self) -> int:
        """None to wait on: ``select`` below is what scapy calls."""
        return -1

    def close(self) -> None:
        handle: Handle | None = getattr(self, "_handle", None)
        if handle:
            self._handle = None
            handle.close()
        self.closed = True

    @staticmethod
    def select(sockets: Sequence[Any], remain: float | None = None) -> list[Any]:
        """The sockets that have a packet, or have ended; waits up to ``remain`` s, at most a moment."""
        until = time.monotonic() + min(_POLL_S, _POLL_S if remain is None else remain)
        while True:
            ready = [one for one in sockets if not isinstance(one, WirecapSocket) or one._is_ready()]
            left = until - time.monotonic()
            if ready or left <= 0:
                return ready
            if len(sockets) > 1:
                time.sleep(min(0.001, left))
            elif sockets[0]._more(left):
                return list(sockets)

    def _is_ready(self) -> bool:
        handle = self._handle
        return handle is None or self._more(0.0) or handle.ended

    def _more(self, timeout_s: float) -> bool:
        """Whether there is something to receive, if only what went wrong: ``select`` has nobody to tell."""
        try:
            return self._handle is None or self._failure is not None or self._handle.more(timeout_s)
        except HandleError as error:
            self._failure = Scapy_Exception(str(error))
            return True


class WirecapListenSocket(WirecapSocket):
    """Receives what comes in on an interface and what goes out, as far as the engine sees it."""

    desc = "read packets at layer 2 using WireCAP"
    direction = "inout"
    sends = False


_scapys_own = conf.L2listen, conf.L2socket


def use_wirecap(value: bool = True) -> None:
    """Let ``sniff``, ``sendp`` and ``srp`` use these sockets from now on; with False, scapy's own again."""
    conf.L2listen, conf.L2socket = (WirecapListenSocket, WirecapSocket) if value else _scapys_own


conf.use_wirecap = use_wirecap
