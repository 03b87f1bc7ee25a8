"""Other forwarders to compare ours with: DPDK's testpmd, netsniff-ng, a Linux bridge, an XDP redirect.

Each forwards from ``inside`` to ``outside``, two interfaces of a namespace; what it sends is counted at the far
end of the wire, not by the forwarder.
"""

from __future__ import annotations

import signal
from typing import ClassVar

from wirecap.lab import peers
from wirecap.lab.far_end import FarEnd
from wirecap.lab.process import Child, find
from wirecap.linux import netlink, netns


class Forwarder:
    """``start``, traffic, ``stop``; ``stop`` returns the CPU time in seconds, 0 if it is not a process of its own."""

    name: ClassVar[str]
    needs_gro: ClassVar[bool] = False
    """AF_PACKET readers and the host only get frames redirected to a veth if GRO is on there."""

    def __init__(self, inside: str, outside: str, namespace: str, cpu: int | None = None, both: bool = False) -> None:
        self.inside, self.outside, self.namespace, self.cpu, self.both = inside, outside, namespace, cpu, both

    @classmethod
    def available(cls) -> str | None:
        """Why the forwarder cannot run here, or None."""
        return None

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> float:
        raise NotImplementedError

    def __enter__(self) -> Forwarder:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Program(Forwarder):
    ready: ClassVar[str]
    terminal: ClassVar[bool] = False
    ended = 0.0

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        cpus = None if self.cpu is None else {self.cpu}
        self._child: Child | None = Child(self.command(), self.namespace, cpus, self.terminal)
        self._child.wait_for(self.ready)

    def stop(self) -> float:
        if self._child:
            self.ended = self._child.end(signal.SIGINT).cpu_s
            self._child = None
        return self.ended


class Testpmd(_Program):
    """testpmd in io mode, which forwards packets without looking at them, on DPDK's af_xdp driver."""

    name = "testpmd"
    ready = r"Press enter to exit"
    terminal = True
    driver: ClassVar[str] = ""
    __test__ = False  # tells pytest that this is not a test class

    @classmethod
    def available(cls) -> str | None:
        return peers.Dpdk.available()

    def command(self) -> list[str]:
        cpu = self.cpu or 0
        devices = [
            f"--vdev=net_af_xdp{number},iface={name},start_queue=0,queue_count=1{self.driver}"
            for number, name in enumerate((self.inside, self.outside))
        ]
        return [
            "dpdk-testpmd", *peers.dpdk_memory(), "--no-pci", "--no-telemetry", "--file-prefix", self.inside,
            "--lcores", f"0@{cpu},1@{cpu}", *devices, "--", "--forward-mode=io", "--nb-cores=1", "--burst=64",
            "--stats-period=0", "--total-num-mbufs=65536", "--rxd=4096", "--txd=4096",
        ]  # fmt: skip


class TestpmdInterrupts(Testpmd):
    """The same without the driver's preferred busy polling, which is better on some machines."""

    name = "testpmd-nobusy"
    driver = ",busy_budget=0"


class NetsniffRedirect(_Program):
    """netsniff-ng from one interface to another, over its mapped rings."""

    name = "netsniff-ng"
    ready = r"Hit \^C|Running! "
    needs_gro = True

    @classmethod
    def available(cls) -> str | None:
        return None if find("netsniff-ng") else "netsniff-ng is not installed"

    def command(self) -> list[str]:
        return [
            "netsniff-ng", "--in", self.inside, "--out", self.outside, "--silent", "--mmap",
            "--ring-size", f"{peers.BUFFER_MIB}MiB",
        ]  # fmt: skip


class XdpRedirect(Forwarder):
    """An XDP program that sends each packet to the other interface: the kernel's own shortest path."""

    name = "xdp-redirect"

    def start(self) -> None:
        ways = [(self.inside, self.outside)] + ([(self.outside, self.inside)] if self.both else [])
        self._programs = [FarEnd(one, self.namespace, other) for one, other in ways]

    def stop(self) -> float:
        for program in self._programs:
            program.close()
        self._programs = []
        return 0.0


class Bridge(Forwarder):
    """A Linux bridge between the two interfaces."""

    name = "bridge"
    needs_gro = True
    interface = "wcbridge"

    def start(self) -> None:
        netns.call(self.namespace, self._make)

    def _make(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            route.link("add", ifname=self.interface, kind="bridge", br_mcast_snooping=0)
            bridge = netlink.interface(self.interface).index
            route.link("set", index=bridge, state="up")
            for name in (self.inside, self.outside):
                route.link("set", index=netlink.interface(name).index, master=bridge)

    def stop(self) -> float:
        netns.call(self.namespace, self._remove)
        return 0.0

    def _remove(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as route:
            for index in route.link_lookup(ifname=self.interface):
                route.link("del", index=index)


FORWARDERS: dict[str, type[Forwarder]] = {
    kind.name: kind for kind in (Testpmd, TestpmdInterrupts, NetsniffRedirect, Bridge, XdpRedirect)
}
