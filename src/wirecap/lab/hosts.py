"""Two hosts with kernels' stacks of their own, and a namespace between them for whatever joins them.

Hosts X are the namespaces ``Xa`` and ``Xb``, with interfaces of the same names and addresses of both families; these
interfaces' other ends are ``X0`` and ``X1`` in namespace X, without addresses.  Offloads are as the kernel sets them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.lab.testbed import netns_file
from wirecap.linux import netns

NO_DETECTION = 2  # IFA_F_NODAD, linux/if_addr.h: the address can be used at once


@dataclass(frozen=True)
class Hosts:
    """Two hosts as they were made."""

    name: str

    @property
    def ends(self) -> tuple[str, str]:
        """The interfaces in the namespace between the hosts."""
        return f"{self.name}0", f"{self.name}1"

    @property
    def namespaces(self) -> tuple[str, str]:
        """Those of the hosts, which are also the names of their interfaces."""
        return f"{self.name}a", f"{self.name}b"

    addresses = ("10.99.0.1", "10.99.0.2")
    addresses6 = ("fd99::1", "fd99::2")


def up(name: str) -> Hosts:
    """Make two hosts; ``down`` removes them."""
    from pyroute2 import NetNS

    hosts = Hosts(name)
    for namespace in (name, *hosts.namespaces):
        netns.create(namespace)
    for number, (host, end) in enumerate(zip(hosts.namespaces, hosts.ends, strict=True)):
        with netns_file(name) as descriptor, NetNS(host) as route:
            route.link("add", ifname=host, kind="veth", peer={"ifname": end, "net_ns_fd": descriptor})
            (index,) = route.link_lookup(ifname=host)
            route.link("set", index=index, state="up")
            route.addr("add", index=index, address=hosts.addresses[number], prefixlen=24)
            route.addr("add", index=index, address=hosts.addresses6[number], prefixlen=64, flags=NO_DETECTION)
        with NetNS(name) as route:
            route.link("set", index=route.link_lookup(ifname=end)[0], state="up")
    return hosts


def down(name: str) -> None:
    """Remove two hosts, or what there is of them."""
    for namespace in (name, *Hosts(name).namespaces):
        with contextlib.suppress(UsageError):
            netns.delete(namespace)
