"""Veth NICs with several queues in a network namespace of their own, to capture on.

For testbed X, NIC k is the pair ``Xk`` (inside namespace X, the capture side) and ``Xkp`` (outside, the
sending side).  Both ends have the same number of receive and transmit queues, are up, have no address,
say nothing on their own (IPv6 is off), and change no frame (all offloads are off).  The kernel makes
both ends of a pair at once, each in its place, so that an interruption leaves no half of one.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import ethtool, netlink, netns
from wirecap.linux.netlink import Interface

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "wirecap"
QUEUES = 4
MTU = 1500
MAX_QUEUES = 4096  # veth's own limit, drivers/net/veth.c
MTU_RANGE = (68, 65535)
TUNNELS = {"lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}
"""What the kernel itself puts into every new namespace."""


@dataclass(frozen=True)
class Nic:
    """One pair as it is now."""

    inside: str
    outside: str
    queues: int
    mtu: int
    up: bool
    xdp: str
    """How an XDP program is attached to the capture side: '' or native, generic."""


@dataclass(frozen=True)
class Testbed:
    """A testbed as it is now; no NICs means that there is none."""

    name: str
    namespace: bool
    nics: tuple[Nic, ...]

    __test__ = False  # pytest: not a class of tests


def up(name: str = NAME, queues: int = QUEUES, nics: int = 1, mtu: int = MTU, gro: bool = False) -> Testbed:
    """Make the testbed, or change it to this shape; one that has the shape already is left as it is.

    ``gro`` switches generic receive offload on at the capture side: frames that an XDP program sends to
    a veth are refused there unless it has an XDP program or GRO, so that AF_PACKET readers need it.
    """
    _check(name, queues, nics, mtu)
    with _explained(name):
        netns.create(name)
        pairs = _pairs(name)
        for inside, outside in _names(name, nics):
            end = pairs.pop(outside, None)
            if not _fits(name, end, inside, queues, mtu):
                if end:
                    _remove(end)
                _make(name, inside, outside, queues, mtu)
            _quieten(outside, gro=False)
            netns.call(name, _quieten, inside, gro=gro)
        for left in pairs.values():
            _remove(left)
    return status(name)


def down(name: str = NAME) -> bool:
    """Remove everything that ``up`` made under this name, whole or half; False where there was nothing."""
    _check(name, 1, 1, MTU)
    with _explained(name):
        pairs = _pairs(name)
        for end in pairs.values():
            _remove(end)
        if name not in netns.names():
            return bool(pairs)
        foreign = _foreign(name)
        if foreign:
            what = f"namespace {name!r} holds {', '.join(foreign)}, which no testbed made"
            raise UsageError(what, "its pairs were removed, the namespace was kept")
        netns.delete(name)
        return True


def status(name: str = NAME) -> Testbed:
    """What there is under this name."""
    if name not in netns.names():
        return Testbed(name, False, ())
    inside = _inside(name)
    nics = []
    for outside, end in sorted(_pairs(name).items(), key=lambda item: _number(name, item[0])):
        facts = inside.get(outside.removesuffix("p"))
        if facts:
            queues = min(facts.rx_queues, facts.tx_queues, end.rx_queues, end.tx_queues)
            both_up = facts.up and end.up
            nics.append(Nic(facts.name, outside, queues, facts.mtu, both_up, facts.xdp_mode))
    return Testbed(name, True, tuple(nics))


def remove_orphans(prefix: str) -> None:
    """Remove testbeds called ``prefix``, a process id and letters, whose process has ended without removing them."""
    for name in netns.names():
        found = re.fullmatch(re.escape(prefix) + "([0-9]+)[a-z]+", name)
        if found and not Path("/proc", found[1]).exists():
            down(name)


def _check(name: str, queues: int, nics: int, mtu: int) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UsageError(f"{name!r} cannot name a testbed", "letters, digits, _ and -, a letter first")
    longest = _names(name, max(nics, 1))[-1][1]
    if len(longest) > ethtool.NAME_BYTES:
        room = ethtool.NAME_BYTES - (len(longest) - len(name))
        raise UsageError(
            f"interface name {longest!r} is longer than {ethtool.NAME_BYTES} bytes",
            f"a testbed with {nics} NIC{'s' * (nics != 1)} has a name of at most {room} letters",
        )
    if not 1 <= queues <= MAX_QUEUES:
        raise UsageError(f"{queues} queues", f"a veth has 1 to {MAX_QUEUES}")
    if nics < 1:
        raise UsageError(f"{nics} NICs", "there is at least one")
    if not MTU_RANGE[0] <= mtu <= MTU_RANGE[1]:
        raise UsageError(f"MTU {mtu}", f"a veth's MTU is {MTU_RANGE[0]} to {MTU_RANGE[1]} bytes")


def _names(name: str, nics: int) -> list[tuple[str, str]]:
    return [(f"{name}{k}", f"{name}{k}p") for k in range(nics)]


def _number(name: str, outside: str) -> int:
    return int(outside[len(name) : -1])


def _inside(name: str) -> dict[str, Interface]:
    try:
        return {facts.name: facts for facts in netns.call(name, netlink.interfaces)}
    except SystemCallError as error:
        if error.errno == errno.EINVAL:  # the remains of a namespace: nothing is in it
            return {}
        raise


def _foreign(name: str) -> list[str]:
    return [facts for facts in _inside(name) if facts not in TUNNELS]


def _pairs(name: str) -> dict[str, Interface]:
    """Sending sides of this testbed: veths called Xkp, but for those whose other end is another testbed's."""
    pattern = re.compile(re.escape(name) + r"(0|[1-9][0-9]*)p")
    found = {facts.name: facts for facts in netlink.interfaces() if pattern.fullmatch(facts.name)}
    for other in netns.names() if found else ():
        if other == name or not any(outside[:-1].startswith(other) for outside in found):
            continue
        theirs = _inside(other)  # testbed "a" with 11 NICs and testbed "a1" have names in common
        for outside, facts in list(found.items()):
            end = theirs.get(outside[:-1])
            if end and end.index == facts.peer_index and end.peer_index == facts.index:
                del found[outside]
    return {outside: facts for outside, facts in found.items() if facts.kind == "veth"}


def _fits(name: str, end: Interface | None, inside: str, queues: int, mtu: int) -> bool:
    """Is the pair there in this shape, with its other end where it belongs?"""
    facts = _inside(name).get(inside)
    if end is None or facts is None or end.peer_index != facts.index or facts.peer_index != end.index:
        return False
    counts = {facts.rx_queues, facts.tx_queues, end.rx_queues, end.tx_queues}
    return counts == {queues} and {facts.mtu, end.mtu} == {mtu}


def _make(name: str, inside: str, outside: str, queues: int, mtu: int) -> None:
    if inside in _inside(name):
        raise UsageError(f"namespace {name!r} has a {inside} that no testbed made", "choose another --name")
    shape = {"num_rx_queues": queues, "num_tx_queues": queues, "mtu": mtu}
    with netns_file(name) as descriptor, _route() as route:
        try:
            peer = {"ifname": inside, "net_ns_fd": descriptor, **shape}
            route.link("add", ifname=outside, kind="veth", peer=peer, **shape)
        except Exception as error:
            if getattr(error, "code", 0) == errno.EEXIST:
                hint = "choose another --name"
                raise UsageError(f"there is an interface {outside} that no testbed made", hint) from None
            raise


@contextmanager
def netns_file(name: str) -> Iterator[int]:
    """The namespace as a file descriptor, for netlink requests that name one."""
    descriptor = os.open(netns.path_of(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _quieten(interface: str, gro: bool) -> None:
    """IPv6 and every offload off, then up: nothing but the traffic that is sent passes, as it was sent."""
    switch = Path("/proc/sys/net/ipv6/conf") / interface / "disable_ipv6"
    if switch.exists() and switch.read_text().strip() != "1":
        switch.write_text("1")
    offloads = {feature: False for feature in ethtool.features(interface) if ethtool.is_offload(feature)}
    ethtool.set_features(interface, {**offloads, "rx-gro": gro and ethtool.features(interface)["rx-gro"]})
    with _route() as route:
        route.link("set", index=netlink.interface(interface).index, state="up")
    ethtool.set_features(interface, {"rx-gro": gro})  # veth tells its other end only when this changes while it is up


def _remove(end: Interface) -> None:
    with _route() as route:
        try:
            route.link("del", index=end.index)
        except Exception as error:
            if getattr(error, "code", 0) != errno.ENODEV:  # gone with its namespace
                raise


def _route() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """A refusal by the kernel as one line that says what it takes."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        code, text = error.code, os.strerror(error.code)
    except OSError as error:
        code, text = error.errno or 0, error.strerror or str(error)
    else:
        return
    needs = "a testbed needs CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root"
    raise SystemCallError(f"testbed {name!r}: {text}", code, needs if code in (errno.EPERM, errno.EACCES) else "")
