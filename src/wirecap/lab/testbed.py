"""Veth NICs with several queues in their own network namespace, to capture on.

In testbed X, NIC k is the pair ``Xk`` (inside namespace X, the capture side) and ``Xkp`` (outside, the
sending side).  Both ends have the same number of receive and transmit queues, are up, have no address,
send nothing on their own (IPv6 is off), and change no frame (all offloads are off).  The kernel creates
both ends of a pair at once, each in its place, so an interruption never leaves half a pair.
"""

from __future__ import annotations

import errno
import os
import re
import time
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
LINK_S = 30.0
TUNNELS = {"lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"}
"""Interfaces that the kernel itself puts into every new namespace."""
_COUNTERS = [
    f"{way}_{name}"
    for way, names in (
        ("rx", "bytes packets errors dropped fifo_errors frame_errors compressed multicast"),
        ("tx", "bytes packets errors dropped fifo_errors collisions carrier_errors compressed"),
    )
    for name in names.split()
]
"""The columns of /proc/net/dev (dev_seq_printf_stats, net/core/net-procfs.c)."""


@dataclass(frozen=True)
class VethPair:
    """One pair as it is now."""

    inside: str
    outside: str
    queues: int
    mtu: int
    up: bool
    xdp: str
    """How an XDP program is attached to the capture side: '', native or generic."""


@dataclass(frozen=True)
class Testbed:
    """A testbed as it is now; without NICs it does not exist."""

    name: str
    namespace: bool
    nics: tuple[VethPair, ...]

    __test__ = False  # tells pytest that this is not a test class


def up(name: str = NAME, queues: int = QUEUES, nics: int = 1, mtu: int = MTU, gro: bool = False) -> Testbed:
    """Create the testbed, or change it to this shape; one that already has the shape is left alone.

    ``gro`` turns on generic receive offload on the capture side: a veth refuses frames from an XDP program
    unless it has an XDP program or GRO, so AF_PACKET readers need it.
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
            for namespace, end_name in ((None, outside), (name, inside)):
                netns.call(namespace, _wait_until_operational, end_name)
        for left in pairs.values():
            _remove(left)
    return status(name)


def down(name: str = NAME) -> bool:
    """Remove everything that ``up`` created under this name, complete or not; False if there was nothing."""
    _check(name, 1, 1, MTU)
    with _explained(name):
        pairs = _pairs(name)
        for end in pairs.values():
            _remove(end)
        if name not in netns.names():
            return bool(pairs)
        foreign = _foreign(name)
        if foreign:
            what = f"namespace {name!r} still holds {', '.join(foreign)}, which no testbed created"
            raise UsageError(what, f"its pairs are removed, the namespace is kept: 'ip netns delete {name}' removes it")
        netns.delete(name)
        return True


def status(name: str = NAME) -> Testbed:
    """The testbed of this name, as it is now."""
    if name not in netns.names():
        return Testbed(name, False, ())
    inside = _inside(name)
    nics = []
    for outside, end in sorted(_pairs(name).items(), key=lambda item: _number(name, item[0])):
        facts = inside.get(outside.removesuffix("p"))
        if facts:
            queues = min(facts.rx_queues, facts.tx_queues, end.rx_queues, end.tx_queues)
            both_up = facts.up and end.up
            nics.append(VethPair(facts.name, outside, queues, facts.mtu, both_up, facts.xdp_mode))
    return Testbed(name, True, tuple(nics))


def received(interface: str, namespace: str | None = None) -> int:
    """Packets that an interface has received, by its own counters: with native XDP the hook has seen that many."""
    return counters(interface, namespace)["rx_packets"]


def counters(interface: str, namespace: str | None = None) -> dict[str, int]:
    """An interface's own counters, by the kernel's names: rx_packets, tx_dropped and so on."""
    text = netns.call(namespace, Path("/proc/thread-self/net/dev").read_text)
    rows = {line.partition(":")[0].strip(): line.partition(":")[2].split() for line in text.splitlines()}
    return dict(zip(_COUNTERS, map(int, rows[interface]), strict=True))


def names() -> list[str]:
    """The testbeds that there are."""
    return sorted(name for name in netns.names() if status(name).nics)


def remove_orphans(prefix: str) -> None:
    """Remove testbeds named ``prefix``, a process id and letters, whose process has ended without removing them."""
    for name in netns.names():
        found = re.fullmatch(re.escape(prefix) + "([0-9]+)[a-z]+", name)
        if found and not Path("/proc", found[1]).exists():
            down(name)


def _check(name: str, queues: int, nics: int, mtu: int) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UsageError(f"{name!r} is not a testbed name", "use letters, digits, _ and -, starting with a letter")
    longest = _names(name, max(nics, 1))[-1][1]
    if len(longest) > ethtool.NAME_BYTES:
        room = ethtool.NAME_BYTES - (len(longest) - len(name))
        raise UsageError(
            f"interface name {longest!r} is longer than {ethtool.NAME_BYTES} bytes",
            f"with {nics} NIC{'s' * (nics != 1)}, use a testbed name of at most {room} letters",
        )
    if not 1 <= queues <= MAX_QUEUES:
        raise UsageError(f"unsupported number of queues: {queues}", f"a veth has 1 to {MAX_QUEUES}")
    if nics < 1:
        raise UsageError(f"unsupported number of NICs: {nics}", "use 1 or more")
    if not MTU_RANGE[0] <= mtu <= MTU_RANGE[1]:
        raise UsageError(f"unsupported MTU: {mtu} bytes", f"a veth takes {MTU_RANGE[0]} to {MTU_RANGE[1]} bytes")


def _names(name: str, nics: int) -> list[tuple[str, str]]:
    return [(f"{name}{k}", f"{name}{k}p") for k in range(nics)]


def _number(name: str, outside: str) -> int:
    return int(outside[len(name) : -1])


def _inside(name: str) -> dict[str, Interface]:
    try:
        return {facts.name: facts for facts in netns.call(name, netlink.interfaces)}
    except SystemCallError as error:
        if error.errno == errno.EINVAL:  # a name without a namespace: nothing is in it
            return {}
        raise


def _foreign(name: str) -> list[str]:
    return [facts for facts in _inside(name) if facts not in TUNNELS]


def _pairs(name: str) -> dict[str, Interface]:
    """Sending sides of this testbed: veths named Xkp, except those whose other end belongs to another testbed."""
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
    """Whether the pair exists in this shape, with its other end where it belongs."""
    facts = _inside(name).get(inside)
    if end is None or facts is None or end.peer_index != facts.index or facts.peer_index != end.index:
        return False
    counts = {facts.rx_queues, facts.tx_queues, end.rx_queues, end.tx_queues}
    return counts == {queues} and {facts.mtu, end.mtu} == {mtu}


def _make(name: str, inside: str, outside: str, queues: int, mtu: int) -> None:
    if inside in _inside(name):
        raise UsageError(
            f"namespace {name!r} already has an interface {inside} that no testbed created", "choose another --name"
        )
    shape = {"num_rx_queues": queues, "num_tx_queues": queues, "mtu": mtu}
    with netns_file(name) as descriptor, _route() as route:
        try:
            peer = {"ifname": inside, "net_ns_fd": descriptor, **shape}
            route.link("add", ifname=outside, kind="veth", peer=peer, **shape)
        except Exception as error:
            if getattr(error, "code", 0) == errno.EEXIST:
                hint = "choose another --name"
                raise UsageError(f"interface {outside} already exists, and no testbed created it", hint) from None
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
    """Turn off IPv6 and every offload, then set the link up: only traffic that is sent passes, and unchanged."""
    switch = Path("/proc/sys/net/ipv6/conf") / interface / "disable_ipv6"
    if switch.exists() and switch.read_text().strip() != "1":
        switch.write_text("1")
    offloads = {feature: False for feature in ethtool.features(interface) if ethtool.is_offload(feature)}
    ethtool.set_features(interface, {**offloads, "rx-gro": gro and ethtool.features(interface)["rx-gro"]})
    with _route() as route:
        route.link("set", index=netlink.interface(interface).index, state="up")
    ethtool.set_features(interface, {"rx-gro": gro})  # veth informs its other end only if this changes while it is up


def _wait_until_operational(interface: str) -> None:
    """The kernel activates a link a moment after it is set up, and drops what is sent on it until then."""
    limit = time.monotonic() + LINK_S
    while netlink.interface(interface).state != "up" and time.monotonic() < limit:
        time.sleep(0.002)


def _remove(end: Interface) -> None:
    with _route() as route:
        try:
            route.link("del", index=end.index)
        except Exception as error:
            if getattr(error, "code", 0) != errno.ENODEV:  # it went with its namespace
                raise


def _route() -> Any:
    from pyroute2 import IPRoute

    return IPRoute()


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn a refusal by the kernel into one line that says what is needed."""
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
