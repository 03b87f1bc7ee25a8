"""Which way to send: the one that is asked for, else the best that the interface and the plan allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import netlink, xdp_features
from wirecap.linux.xdp_features import XdpFeature
from wirecap.traffic import packet_sender, xdp_sender
from wirecap.traffic.live_sender import LiveSender
from wirecap.traffic.liveframes import FRAME_MAX
from wirecap.traffic.packet_sender import PacketSender
from wirecap.traffic.sender import Macs, Sender
from wirecap.traffic.xdp_sender import XdpSender

ETHERNET_BYTES, TAG_BYTES = 14, 4
FAST_PPS = 300_000
"""Above this mean rate AF_XDP in copy mode has little left: live frames are taken where they can be.  So they are where
the mean is not known: recordings have bursts that come faster than this for a while."""

KEEP = Macs()


@dataclass(frozen=True)
class Wish:
    """What is to be sent: on which queues (None: any), how long the longest frame is, at which times.

    pps: the mean rate in packets a second where it is known; None at full speed and as recorded.
    """

    queues: tuple[int, ...] | None
    longest: int
    paced: bool
    pps: float | None
    macs: Macs = KEEP


def longest_frame(facts: netlink.Interface) -> int:
    """Bytes of the longest frame that the interface sends: a VLAN tag is not part of its MTU."""
    return facts.mtu + ETHERNET_BYTES + TAG_BYTES


def open_sender(interface: str, way: str, wish: Wish) -> tuple[Sender, str]:
    """The sender and, where it is not the first choice, why; in this thread's namespace.

    Raises UsageError or SystemCallError where the way that was asked for, or every way, is refused.
    """
    facts = netlink.interface(interface)
    if not facts.up:
        raise UsageError(f"{facts.name} is down", f"set it up first: ip link set {facts.name} up")
    makers: dict[str, Callable[[], Sender]] = {
        "live": lambda: LiveSender(facts.name, wish.longest, wish.paced, wish.macs),
        "xdp": lambda: XdpSender(
            facts.name, wish.queues or (0,), wish.longest, wish.paced, wish.macs,
            copy=netlink.is_in_use(facts) is not None,
        ),
        "packet": lambda: PacketSender(facts.name, wish.longest, wish.paced, wish.macs),
    }  # fmt: skip
    if way != "auto":
        reason = _unfit(way, facts, wish)
        if reason:
            raise UsageError(f"--send {way}: {reason}", "leave --send out, or choose another way")
        return makers[way](), ""
    problems: list[str] = []
    for candidate in _order(wish):
        reason = _unfit(candidate, facts, wish)
        if not reason:
            try:
                return makers[candidate](), "; ".join(problems)
            except SystemCallError as error:
                if candidate == "packet" or (candidate == "xdp" and wish.queues and len(wish.queues) > 1):
                    raise
                reason = error.message
        problems.append(f"not {candidate}: {reason}")
    raise UsageError(f"{facts.name} cannot send this: {'; '.join(problems)}")


def _order(wish: Wish) -> Sequence[str]:
    fast = wish.pps is None or wish.pps > FAST_PPS
    return ("live", "xdp", "packet") if fast else ("xdp", "packet")


def _unfit(way: str, facts: netlink.Interface, wish: Wish) -> str:
    """Why a way cannot be taken; '' where it can."""
    if way == "live":
        if wish.queues is not None and len(wish.queues) * facts.tx_queues > 1:
            return "live frames leave on the queue of their CPU"
        if wish.longest > FRAME_MAX:
            return f"a live frame has at most {FRAME_MAX} bytes"
        features = xdp_features.by_interface()
        if features is not None and XdpFeature.TRANSMIT not in features.get(facts.index, XdpFeature(0)):
            other = "its other end has no XDP program and no GRO" if facts.kind == "veth" else "its driver takes none"
            return f"{facts.name} takes no redirected frames: {other}"
    if way == "xdp":
        if wish.longest > xdp_sender.LONGEST_BYTES:
            return f"a cell of AF_XDP holds {xdp_sender.LONGEST_BYTES} bytes"
        if facts.loopback:
            return "the loopback interface has no AF_XDP transmit"
    if way == "packet":
        if wish.queues is not None and len(wish.queues) * facts.tx_queues > 1:
            return "AF_PACKET cannot choose the transmit queue"
        if wish.longest > packet_sender.LONGEST_BYTES:
            return f"a frame of the transmit ring has at most {packet_sender.LONGEST_BYTES} bytes"
    return ""
