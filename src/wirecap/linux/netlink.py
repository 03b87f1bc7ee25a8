"""Facts about network interfaces, read over rtnetlink and the ethtool ioctl.

Everything refers to the calling thread's network namespace; ``netns.call(name, interface, "X0")`` asks
in another one.
"""

from __future__ import annotations

import difflib
import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.linux import ethtool, netns, rtnetlink
from wirecap.linux.rtnetlink import Attributes, Link, Rtnetlink

XDP_MODES = {  # one program per mode
    rtnetlink.XDP_NATIVE: "native", rtnetlink.XDP_GENERIC: "generic", rtnetlink.XDP_OFFLOAD: "offload",
}  # fmt: skip
RTN_UNICAST = 1  # linux/rtnetlink.h; the others are local, broadcast, multicast and refusals
ALTNAME_BYTES = 127  # ALTIFNAMSIZ minus the final zero, linux/if.h
IFF_UP = 1
IFF_LOOPBACK = 8
PARAVIRTUAL = ("virtio_net", "vif")  # KVM's and Xen's, by the names that ethtool tells


@dataclass(frozen=True)
class Interface:
    """One interface, as it was when queried."""

    name: str
    index: int
    mac: str
    mtu: int
    """Bytes, without the Ethernet header."""
    up: bool
    """Administratively up (IFF_UP)."""
    state: str
    """Operational state, lower case: up, down, lowerlayerdown, unknown (RFC 2863)."""
    loopback: bool
    kind: str
    """The kind of a virtual interface: veth, bridge, bond, vlan, ...; '' for hardware."""
    driver: str
    """The driver's name as ethtool reports it, '' if it has none."""
    rx_queues: int
    tx_queues: int
    addresses: tuple[str, ...]
    """Addresses with prefix length, including link-local ones."""
    routes: tuple[str, ...]
    """Destinations routed through the interface ('default' for all), without the automatic fe80::/64."""
    master: str
    """The bridge or bond that it belongs to, or ''."""
    peer_index: int
    """Index of the other end of a veth pair, or of the interface below; 0 if there is none."""
    xdp_mode: str
    """How an XDP program is attached now: '' | native | generic | offload | several."""
    xdp_program: int
    """The attached program's id, or 0."""
    promiscuity: int
    """How many users keep the interface promiscuous."""
    hardware: int = 1
    """The kind of link: an ARPHRD_ number (linux/if_arp.h), 1 for Ethernet."""


def interface(name: str) -> Interface:
    """The facts of one interface; if it does not exist, UsageError suggests similar names."""
    if not 0 < len(name.encode()) <= ALTNAME_BYTES:
        raise UsageError(
            f"{name!r} is not an interface name", f"use a name of 1 to {ALTNAME_BYTES} bytes, such as eth1"
        )
    index = index_of(name)
    if not index:
        raise unknown(name)
    with Rtnetlink() as netlink:
        try:
            return _facts(netlink, netlink.link(index))
        except SystemCallError as error:
            if error.errno == errno.ENODEV:  # removed in the meantime
                raise unknown(name) from None
            raise SystemCallError(f"{name}: {error.message}", error.errno) from None


def index_of(name: str) -> int:
    """The index of the interface that has this name or alternative name; 0 if there is none."""
    try:
        return socket.if_nametoindex(name)  # libc refuses the long ones
    except OSError:
        if len(name.encode()) <= ethtool.NAME_BYTES:
            return 0
    with Rtnetlink() as netlink:
        try:
            return netlink.link(name=name).number
        except SystemCallError:
            return 0


def own_name(name: str) -> str:
    """The name that the kernel gives an interface, whichever of its names this is; unknown ones stay as they are."""
    index = index_of(name)
    return socket.if_indextoname(index) if index else name


def interfaces() -> list[Interface]:
    """All interfaces of the namespace, by index."""
    found = []
    with Rtnetlink() as netlink:
        for link in sorted(netlink.links(), key=lambda link: link.number):
            try:
                found.append(_facts(netlink, link))
            except SystemCallError as error:
                if error.errno != errno.ENODEV:  # removed in the meantime, it or its master
                    raise
    return found


def loopback_index() -> int:
    """The index of the namespace's loopback interface."""
    with Rtnetlink() as netlink:
        return next((link.number for link in netlink.links() if link.flags & IFF_LOOPBACK), 0)


def unknown(name: str) -> UsageError:
    """The error for an interface that does not exist: its hint names the namespace that has it, or similar names.

    A comma may stand in a name, but hardly does.
    """
    if "," in name:
        return UsageError(f"no interface {name!r}", f"name each on its own: {' and '.join(name.split(','))}")
    for namespace in netns.names():
        if _is_in(namespace, name):
            hint = f"it is in network namespace {namespace!r}: use --netns {namespace}"
            return UsageError(f"no interface {name!r} here", hint)
    if len(name.encode()) > ethtool.NAME_BYTES:
        return UsageError(
            f"{name!r} is not an interface name, not even an alternative one",
            f"names have 1 to {ethtool.NAME_BYTES} bytes; 'ip link show' lists both kinds",
        )
    known = [entry for _, entry in socket.if_nameindex()]
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    if near:
        return UsageError(f"no interface {name!r}", f"did you mean {' or '.join(near)}?")
    return UsageError(f"no interface {name!r}", f"choose from {', '.join(known)}" if known else "there are none")


def _is_in(namespace: str, name: str) -> bool:
    try:
        return bool(netns.call(namespace, index_of, name))
    except (OSError, WirecapError):  # it is not there, or we may not look
        return False


def is_in_use(facts: Interface) -> str | None:
    """Why taking away this interface's packets would disturb the host; None for a capture port.

    An IPv6 link-local address alone does not count: the kernel gives every interface one when it goes up.
    """
    if facts.loopback:
        return f"{facts.name} is the loopback interface"
    if facts.master:
        return f"{facts.name} belongs to {facts.master}"
    for address in facts.addresses:
        ip = ip_address(address.split("/")[0])
        if not (ip.version == 6 and ip.is_link_local):
            return f"{facts.name} has the address {address}"
    if facts.routes:
        return f"{facts.name} has a route to {facts.routes[0]}"
    return None


def is_virtual(facts: Interface) -> bool:
    """Whether packets may come from a stack on this machine, which leaves their checksums to a device."""
    return bool(facts.kind) or facts.driver in PARAVIRTUAL


def _facts(netlink: Rtnetlink, link: Link) -> Interface:
    known, index = link.attributes, link.number
    name, master = known.text(rtnetlink.NAME), known.number(rtnetlink.MASTER)
    queues = ethtool.channels(name) or (known.number(rtnetlink.RX_QUEUES), known.number(rtnetlink.TX_QUEUES))
    mode, program = _xdp(known.inner(rtnetlink.XDP))
    state = known.number(rtnetlink.STATE)
    return Interface(
        name=name,
        index=index,
        mac=known.get(rtnetlink.MAC, b"").hex(":"),
        mtu=known.number(rtnetlink.MTU),
        up=bool(link.flags & IFF_UP),
        state=rtnetlink.STATES[state] if state < len(rtnetlink.STATES) else "unknown",
        loopback=bool(link.flags & IFF_LOOPBACK),
        kind=known.inner(rtnetlink.INFO).text(rtnetlink.INFO_KIND),
        driver=ethtool.driver(name),
        rx_queues=queues[0] or 1,
        tx_queues=queues[1] or 1,
        addresses=tuple(netlink.addresses(index)),
        routes=tuple(_routes(netlink, index)),
        master=netlink.link(master).attributes.text(rtnetlink.NAME) if master else "",
        peer_index=known.number(rtnetlink.BELOW),
        xdp_mode=mode,
        xdp_program=program,
        promiscuity=known.number(rtnetlink.PROMISCUITY),
        hardware=link.hardware,
    )


def _routes(netlink: Rtnetlink, index: int) -> list[str]:
    found = []
    for route in netlink.routes(index):
        if route.kind != RTN_UNICAST:
            continue
        if not route.destination:
            found.append("default")
            continue
        network = ip_network(route.destination)
        if network.version == 4 or not (network.is_link_local or network.is_multicast):
            found.append(str(network))
    return found


def _xdp(attached: Attributes) -> tuple[str, int]:
    programs = {mode: attached.number(field) for field, mode in XDP_MODES.items() if attached.number(field)}
    if len(programs) > 1:
        return "several", 0
    return next(iter(programs.items()), ("", 0))
