"""Binding AF_XDP sockets to queues: copy mode or zero-copy, packets of one cell or of several."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from wirecap.errors import SystemCallError
from wirecap.linux import af_xdp, holders, netlink


@dataclass(frozen=True)
class Binding:
    """How the sockets of one source are bound.

    copies: zero-copy is not asked for; joins: the kernel has packets of several cells; often: such are expected.
    """

    copies: bool
    joins: bool
    often: bool

    def bind(self, socket: af_xdp.Socket, first: af_xdp.Socket, name: str, index: int, queue: int) -> None:
        """first: the one that has registered the cells, or that shares them already; it decides for all.

        Raises SystemCallError, with a hint.
        """
        try:
            if socket is not first:
                socket.bind(index, queue, 0, first)
            else:
                self._bind_first(socket, index, queue)
        except SystemCallError as error:
            hints = {
                errno.ENETDOWN: f"bring it up: ip link set {name} up",
                errno.EINVAL: "the driver refuses this queue or combination of NICs; try --xdp-mode generic",
            }
            if socket is not first:
                hints[errno.EOPNOTSUPP] = (
                    "its driver has no zero-copy for this, and that of another NIC of the capture has:"
                    " use --xdp-mode generic"
                )
            owner = holders.of_program(netlink.interface(name).xdp_program) if error.errno == errno.EBUSY else ""
            if owner:
                hints[errno.EBUSY] = f"another AF_XDP socket has the queue: stop its owner, {owner}"
            message = f"{name} queue {queue}: {error.message}"
            raise SystemCallError(message, error.errno, hints.get(error.errno, error.hint)) from None

    def _bind_first(self, first: af_xdp.Socket, index: int, queue: int) -> None:
        """Zero-copy where the driver has it.

        A driver that has zero-copy for packets of one cell only is asked for that where no others are expected; the
        kernel itself would leave it for copy mode.
        """
        joins = af_xdp.USE_SG if self.joins else 0
        if self.copies:
            first.bind(index, queue, af_xdp.NEED_WAKEUP | af_xdp.COPY | joins)
            return
        if joins and not self.often:
            try:
                first.bind(index, queue, af_xdp.NEED_WAKEUP | af_xdp.ZERO_COPY)
                return
            except SystemCallError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
        first.bind(index, queue, af_xdp.NEED_WAKEUP | joins)
