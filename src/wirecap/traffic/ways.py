"""Which way to send: what is asked for, what each interface can, and the sender that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from wirecap.errors import SystemCallError, UsageError
from wirecap.kernels.transmit.launch_queues import METADATA_BYTES
from wirecap.linux import ethtool, launch_time, netlink, probes
from wirecap.linux.launch_time import Lack
from wirecap.linux.probes import XdpFeature
from wirecap.source import link_types
from wirecap.traffic.launch_sender import LaunchSender
from wirecap.traffic.live_frames import FRAME_MAX, LiveSender
from wirecap.traffic.ring_sender import CELL_BYTES, PacketSlots, RingSender, XdpQueues, cell_for, check_queues
from wirecap.traffic.sender import Macs, Sender

ETHERNET_BYTES, TAG_BYTES = 14, 4
FAST_PPS = 300_000
"""Above this mean rate AF_XDP in copy mode has little left: live frames are taken where they can be.  So they are where
the mean is not known: recordings have bursts that come faster than this for a while."""

KEEP = Macs()


@dataclass(frozen=True)
class Wish:
    """What is to be sent: on which queues (None: any), how long the longest frame is, at which times.

    pps: the mean rate in packets a second where it is known; None at full speed and as recorded.  launch: whether the
    NIC is to keep the times: ``auto`` (where it can), ``on`` or ``off``.
    """

    queues: tuple[int, ...] | None
    longest: int
    paced: bool
    pps: float | None
    macs: Macs = KEEP
    launch: str = "off"


def link_header(facts: netlink.Interface) -> int:
    """Bytes of the link-layer header that an interface sends: 14 for Ethernet, 0 for IP packets alone (tun)."""
    kind = link_types.of_link(facts.hardware)
    if kind not in (link_types.ETHERNET, link_types.RAW):
        raise UsageError(
            f"{facts.name} takes neither Ethernet frames nor IP packets",
            "send on an Ethernet interface or a tunnel",
        )
    return ETHERNET_BYTES if kind == link_types.ETHERNET else 0


def longest_frame(facts: netlink.Interface) -> int:
    """Bytes of the longest frame that the interface sends: a VLAN tag is not part of its MTU."""
    header = link_header(facts)
    return facts.mtu + (header + TAG_BYTES if header else 0)


def open_sender(interfaces: str | Sequence[str], way: str, wish: Wish) -> tuple[Sender, str]:
    """The sender and, where it is not the first choice, why; in this thread's namespace.

    Raises UsageError or SystemCallError where the way that was asked for, or every way, is refused.
    """
    named = [interfaces] if isinstance(interfaces, str) else list(interfaces)
    facts = [netlink.interface(name) for name in named]
    names = [one.name for one in facts]
    for one in facts:
        check_queues(one, wish.queues or (0,))
    makers: dict[str, Callable[[], Sender]] = {
        "live": lambda: LiveSender(names[0], wish.longest, wish.paced, wish.macs),
        "xdp": lambda: RingSender(
            XdpQueues(
                [(name, queue) for name in names for queue in wish.queues or (0,)], cell_for(wish.longest),
                copy=[one.name for one in facts if netlink.is_in_use(one) is not None],
            ),
            wish.paced, wish.macs,
        ),
        "packet": lambda: RingSender(PacketSlots(names, wish.longest), wish.paced, wish.macs),
    }  # fmt: skip
    if wish.launch != "off" and (launching := _launching(facts, way, wish)):
        return launching, ""
    if way != "auto":
        reason = _unfit(way, facts, wish)
        if reason:
            raise UsageError(f"--send {way}: {reason}", "leave --send out, or choose another method")
        return makers[way](), ""
    problems: list[str] = []
    for candidate in _order(wish, facts):
        reason = _unfit(candidate, facts, wish)
        if not reason:
            try:
                return makers[candidate](), "; ".join(problems)
            except SystemCallError as error:
                if candidate == "packet" or (candidate == "xdp" and wish.queues and len(wish.queues) > 1):
                    raise
                reason = error.message
        problems.append(f"not {candidate}: {reason}")
    raise UsageError(f"{' and '.join(names)} cannot send this: {'; '.join(problems)}")


def _launching(facts: Sequence[netlink.Interface], way: str, wish: Wish) -> Sender | None:
    """The sender that leaves the times to the NIC; None where it cannot be and was not asked for."""
    lack = _unfit_for_launch(facts, way, wish)
    if not lack:
        try:
            return _open_launching(facts[0], wish)
        except SystemCallError as error:
            lack = Lack(error.message, error.hint or "leave it out")
        except OSError as error:  # of the clock
            lack = Lack(f"{error.filename or facts[0].name}: {error.strerror}", "leave it out")
    if wish.launch == "auto":
        return None
    raise UsageError(f"--launch-time: {lack.reason}", lack.way_out)


def _open_launching(facts: netlink.Interface, wish: Wish) -> Sender:
    places = [(facts.name, queue) for queue in wish.queues or (0,)]
    queues = XdpQueues(places, cell_for(wish.longest + METADATA_BYTES), launch=True)
    try:
        launch_time.switch_on_stamps(facts.name)
        return LaunchSender(queues, wish.macs, launch_time.Clock(ethtool.clock(facts.name)))
    except BaseException:
        queues.close()
        raise


def _unfit_for_launch(facts: Sequence[netlink.Interface], way: str, wish: Wish) -> Lack | None:
    if not wish.paced:
        return Lack("at full speed packets have no times", "give a rate, or leave it out")
    if way not in ("auto", "xdp"):
        return Lack(f"--send {way} does not reach the NIC's clock", "leave --send out")
    if len(facts) > 1:
        return Lack("two interfaces have two clocks", "send on one of them")
    unfit = _unfit_for_xdp(facts[0], replace(wish, longest=wish.longest + METADATA_BYTES))
    used = netlink.is_in_use(facts[0])
    if unfit or used:
        return Lack(unfit or f"{used}, and zero-copy would take its buffers", "leave it out")
    return launch_time.lack(facts[0].name, facts[0].index, wish.queues or (0,))


def _order(wish: Wish, facts: Sequence[netlink.Interface]) -> Sequence[str]:
    fast = wish.pps is None or wish.pps > FAST_PPS
    return ("live", "xdp", "packet") if fast and len(facts) == 1 else ("xdp", "packet")


def _unfit(way: str, facts: Sequence[netlink.Interface], wish: Wish) -> str:
    """Why a way cannot be taken; '' where it can."""
    if way == "live" and len(facts) > 1:
        return "live frames leave on one interface"
    for one in facts:
        unfit = {"live": _unfit_for_live, "xdp": _unfit_for_xdp, "packet": _unfit_for_packet}[way](one, wish)
        if unfit:
            return unfit
    return ""


def _unfit_for_live(facts: netlink.Interface, wish: Wish) -> str:
    if not link_header(facts):
        return f"live frames are Ethernet frames, and {facts.name} takes IP packets"
    if wish.queues is not None and len(wish.queues) * facts.tx_queues > 1:
        return "live frames leave on the queue of their CPU"
    if wish.longest > FRAME_MAX:
        return f"a live frame can have at most {FRAME_MAX} bytes"
    features = probes.features_of(facts.index)
    if features is not None and XdpFeature.TRANSMIT not in features:
        other = "its peer has neither an XDP program nor GRO" if facts.kind == "veth" else "its driver cannot"
        return f"{facts.name} does not accept redirected frames: {other}"
    return ""


def _unfit_for_xdp(facts: netlink.Interface, wish: Wish) -> str:
    if not link_header(facts):
        return f"AF_XDP sends Ethernet frames, and {facts.name} takes IP packets"
    if wish.longest > CELL_BYTES[-1]:
        return f"an AF_XDP cell holds at most {CELL_BYTES[-1]} bytes"
    return "the loopback interface does not support AF_XDP transmit" if facts.loopback else ""


def _unfit_for_packet(facts: netlink.Interface, wish: Wish) -> str:
    if wish.queues is not None and len(wish.queues) * facts.tx_queues > 1:
        return "AF_PACKET cannot choose the transmit queue"
    if wish.longest > PacketSlots.LONGEST_BYTES:
        return f"a frame in the transmit ring can have at most {PacketSlots.LONGEST_BYTES} bytes"
    return ""
