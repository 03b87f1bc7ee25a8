"""Facts about network interfaces, read over rtnetlink (pyroute2) and the ethtool ioctl.

Everything is about the calling thread's network namespace; ``netns.call(name, interface, "X0")`` asks
in another.  pyroute2 takes 0.2 s to import, so that it is imported by the first question.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from wirecap.errors import SystemCallError, UsageError, WirecapError
from wirecap.linux import ethtool, netns

XDP_MODES = {  # linux/if_link.h: one program per mode
    "IFLA_XDP_DRV_PROG_ID": "native",
    "IFLA_XDP_SKB_PROG_ID": "generic",
    "IFLA_XDP_HW_PROG_ID": "offload",
}
RTN_UNICAST = 1  # linux/rtnetlink.h; the others are local, broadcast, multicast and refusals
SIOCGIFFLAGS = 0x8913  # linux/sockios.h
IFF_UP = 1
IFF_LOOPBACK = 8


@dataclass(frozen=True)
class Interface:
    """One interface as it was when asked."""

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
    """The driver's name as ethtool has it, '' where it has none."""
    rx_queues: int
    tx_queues: int
    addresses: tuple[str, ...]
    """Addresses with prefix length, link-local ones too."""
    routes: tuple[str, ...]
    """Destinations that leave through the interface ('default' for all), without the automatic fe80::/64."""
    master: str
    """The bridge or bond that it belongs to, else ''."""
    peer_index: int
    """Index of the other end of a veth pair, or of the interface below; 0 where there is none."""
    xdp_mode: str
    """'' | native | generic | offload | several: how an XDP program is attached now."""
    xdp_program: int
    """The attached program's id, else 0."""
    promiscuity: int
    """How many users keep the interface promiscuous."""
    hardware: int = 1
    """What kind of link it is: an ARPHRD_ number (linux/if_arp.h), 1 for Ethernet."""


def interface(name: str) -> Interface:
    """The facts of one interface; UsageError with near names where there is none."""
    if not 0 < len(name.encode()) <= ethtool.NAME_BYTES:
        raise UsageError(f"{name!r} is no interface name", f"it has 1 to {ethtool.NAME_BYTES} bytes")
    try:
        index = socket.if_nametoindex(name)  # knows alternative names too
    except OSError:
        raise unknown(name) from None
    with _open() as netlink:
        try:
            return _facts(netlink, netlink.link("get", index=index)[0])
        except _netlink_error() as error:
            if error.code == errno.ENODEV:  # gone in between
                raise unknown(name) from None
            raise SystemCallError(f"netlink: {name}: {os.strerror(error.code)}", error.code) from None


def interfaces() -> list[Interface]:
    """All interfaces of the namespace, by index."""
    with _open() as netlink:
        links = sorted(netlink.link("dump"), key=lambda link: int(link["index"]))
        return [_facts(netlink, link) for link in links]


def loopback_index() -> int:
    """The index of the namespace's loopback interface."""
    with _open() as netlink:
        return next((int(link["index"]) for link in netlink.link("dump") if link["flags"] & IFF_LOOPBACK), 0)


def is_up(name: str) -> bool:
    """Is the interface there and administratively up?  One ioctl, for loops that ask often."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        try:
            answer = fcntl.ioctl(channel, SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    return bool(struct.unpack_from("H", answer, 16)[0] & IFF_UP)


def unknown(name: str) -> UsageError:
    """The error for an interface that is not there: with the namespace that has it, or the names that are near."""
    for namespace in netns.names():
        if _is_in(namespace, name):
            hint = f"it is in the network namespace {namespace!r}: take --netns {namespace}"
            return UsageError(f"no interface {name!r} here", hint)
    known = [entry for _, entry in socket.if_nameindex()]
    near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    if near:
        return UsageError(f"no interface {name!r}", f"did you mean {' or '.join(near)}?")
    return UsageError(f"no interface {name!r}", f"there are: {', '.join(known)}" if known else "there are none")


def _is_in(namespace: str, name: str) -> bool:
    try:
        return bool(netns.call(namespace, socket.if_nametoindex, name))
    except (OSError, WirecapError):  # not there; or we may not look
        return False


def is_in_use(facts: Interface) -> str | None:
    """Why taking this interface's packets away would disturb the host; None for a capture port.

    An IPv6 link-local address alone does not count: the kernel gives one to every interface that is up.
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


def _open() -> Any:
    from pyroute2 import IPRoute

    return IPRoute(strict_check=True)  # the kernel filters addresses and routes by interface, not we


def _netlink_error() -> Any:
    from pyroute2.netlink.exceptions import NetlinkError

    return NetlinkError


def _facts(netlink: Any, link: Any) -> Interface:
    name, index = str(link.get("ifname")), int(link["index"])
    master = link.get("master")
    info = link.get("linkinfo")
    kind = str(info.get("kind") or "") if info else ""
    rx_queues, tx_queues = ethtool.channels(name) or (link.get("num_rx_queues"), link.get("num_tx_queues"))
    mode, program = _xdp(link)
    return Interface(
        name=name,
        index=index,
        mac=str(link.get("address") or ""),
        mtu=int(link.get("mtu")),
        up=bool(link["flags"] & IFF_UP),
        state=str(link.get("operstate") or "unknown").lower(),
        loopback=bool(link["flags"] & IFF_LOOPBACK),
        kind=kind,
        driver=ethtool.driver(name),
        rx_queues=int(rx_queues or 1),
        tx_queues=int(tx_queues or 1),
        addresses=tuple(f"{a.get('address')}/{a['prefixlen']}" for a in netlink.get_addr(index=index)),
        routes=tuple(_routes(netlink, index)),
        master=str(netlink.link("get", index=master)[0].get("ifname")) if master else "",
        peer_index=int(link.get("link") or 0),
        xdp_mode=mode,
        xdp_program=program,
        promiscuity=int(link.get("promiscuity") or 0),
        hardware=int(link["ifi_type"]),
    )


def _routes(netlink: Any, index: int) -> list[str]:
    found = []
    for route in netlink.get_routes(oif=index):
        destination = route.get("dst")
        if route["type"] != RTN_UNICAST:
            continue
        if destination is None:
            found.append("default")
            continue
        network = ip_network(f"{destination}/{route['dst_len']}")
        if network.version == 4 or not (network.is_link_local or network.is_multicast):
            found.append(str(network))
    return found


def _xdp(link: Any) -> tuple[str, int]:
    facts = link.get("xdp")
    programs = {field: int(value) for field, value in facts["attrs"] if field.endswith("PROG_ID")} if facts else {}
    modes = [mode for field, mode in XDP_MODES.items() if programs.get(field)]
    if len(modes) > 1:
        return "several", 0
    return (modes[0], max(programs.values())) if modes else ("", 0)
