"""Interface facts: as the kernel has them, for any interface, in little time."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rig import until
from wirecap.errors import UsageError
from wirecap.lab.testbed import Testbed
from wirecap.linux import asm, bpf, ethtool, netlink, netns
from wirecap.linux.rtnetlink import Attributes, Link, Rtnetlink

Make = Callable[..., Testbed]
XDP_DROP = asm.assemble([("mov_imm", 0, 0, 0, bpf.XDP_DROP), ("exit", 0, 0, 0, 0)])


def route(**request: Any) -> None:
    """Change addresses and links with pyroute2, in the calling thread's namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        for verb, arguments in request.items():
            getattr(ip, verb)(*arguments.pop("command"), **arguments)


def test_loopback_is_known_and_in_use() -> None:
    """The loopback interface has index, MTU and queues, and counts as in use."""
    facts = netlink.interface("lo")
    assert facts.loopback
    assert facts.index == 1
    assert facts.rx_queues >= 1
    assert "loopback" in str(netlink.is_in_use(facts))
    assert facts.name in [other.name for other in netlink.interfaces()]


def test_an_interface_that_goes_meanwhile_is_left_out(monkeypatch) -> None:
    """The kernel has no addresses of an interface that was removed after it was listed: the others are told."""
    links, listed = Rtnetlink.links, []

    def one_more(self) -> list[Link]:
        listed[:] = links(self)
        return [*listed, Link(1, 2**30, 0, Attributes())]

    monkeypatch.setattr(Rtnetlink, "links", one_more)
    told = [facts.index for facts in netlink.interfaces()]
    there = {index for index, _ in socket.if_nameindex()}  # other tests' interfaces come and go, too
    assert 2**30 not in told
    assert {each[1] for each in listed} & there <= set(told) <= {each[1] for each in listed}


@pytest.mark.parametrize("name", ["", "x" * 16, "x" * 128, "lö" * 43])
def test_impossible_names_are_usage_errors(name: str) -> None:
    """A name that no interface can have is refused as such."""
    with pytest.raises(UsageError, match="not an interface name"):
        netlink.interface(name)


@pytest.mark.live
def test_unknown_interface_tells_near_names(testbed: Make) -> None:
    """An unknown interface is a usage error that names a similar one."""
    nic = testbed(queues=1).nics[0]
    with pytest.raises(UsageError, match=f"did you mean .*{nic.outside}"):
        netlink.interface(nic.outside[:-1] + "q")


@pytest.mark.live
def test_interface_of_another_namespace_tells_which(testbed: Make) -> None:
    """An interface that is not here but in a named namespace: the hint is the option that goes there."""
    bed = testbed(queues=1)
    with pytest.raises(UsageError, match=f"use --netns {bed.name}"):
        netlink.interface(bed.nics[0].inside)


@pytest.mark.live
def test_facts_of_a_veth(testbed: Make) -> None:
    """Queues, MTU, driver, state and the other end's index are the kernel's."""
    bed = testbed(queues=3, mtu=2000)
    outside = netlink.interface(bed.nics[0].outside)
    inside = netns.call(bed.name, netlink.interface, bed.nics[0].inside)
    assert (outside.rx_queues, outside.tx_queues) == (3, 3)
    assert (inside.mtu, inside.driver, inside.kind, inside.up) == (2000, "veth", "veth", True)
    until(lambda: netns.call(bed.name, netlink.interface, bed.nics[0].inside).state == "up")
    assert (outside.peer_index, inside.peer_index) == (inside.index, outside.index)
    assert netlink.is_in_use(inside) is None


@pytest.mark.live
def test_attached_xdp_programs_are_seen(testbed: Make) -> None:
    """The mode and id of an XDP program show while it is attached, and not after."""
    bed = testbed(queues=1)
    name = bed.nics[0].inside
    program = bpf.Program(XDP_DROP)
    index = netns.call(bed.name, netlink.interface, name).index
    for mode, text in ((bpf.XDP_DRV_MODE, "native"), (bpf.XDP_SKB_MODE, "generic")):
        link = netns.call(bed.name, program.attach, index, mode)
        facts = netns.call(bed.name, netlink.interface, name)
        assert facts.xdp_mode == text
        assert facts.xdp_program > 0
        link.close()
        until(lambda: netns.call(bed.name, netlink.interface, name).xdp_mode == "")
        assert netns.call(bed.name, netlink.interface, name).xdp_program == 0


@pytest.mark.live
def test_addresses_routes_and_masters_mean_in_use(testbed: Make) -> None:
    """An address, a route or a bridge make an interface one that the host uses; each is named."""
    bed = testbed(queues=1, nics=2)

    def ask(name: str) -> str | None:
        return netlink.is_in_use(netlink.interface(name))

    first, second = (netns.call(bed.name, netlink.interface, nic.inside) for nic in bed.nics)
    add = {"command": ("add",), "index": first.index, "address": "192.0.2.7", "prefixlen": 24}
    netns.call(bed.name, route, addr=add)
    assert "192.0.2.7/24" in str(netns.call(bed.name, ask, first.name))
    bridge = {"command": ("add",), "ifname": "br", "kind": "bridge"}
    netns.call(bed.name, route, link=bridge)
    index = netns.call(bed.name, netlink.interface, "br").index
    netns.call(bed.name, route, link={"command": ("set",), "index": second.index, "master": index})
    assert "belongs to br" in str(netns.call(bed.name, ask, second.name))


@pytest.mark.live
def test_a_route_alone_means_in_use(testbed: Make) -> None:
    """An interface without address that a route uses is in use."""
    bed = testbed(queues=1)
    facts = netns.call(bed.name, netlink.interface, bed.nics[0].inside)
    add = {"command": ("add",), "dst": "198.51.100.0/24", "oif": facts.index}
    netns.call(bed.name, route, route=add)
    after = netns.call(bed.name, netlink.interface, facts.name)
    assert after.routes == ("198.51.100.0/24",)
    assert "198.51.100.0/24" in str(netlink.is_in_use(after))


@pytest.mark.live
def test_link_local_alone_is_not_in_use(testbed: Make) -> None:
    """The automatic IPv6 link-local address and its routes do not make a capture port one that is in use."""
    bed = testbed(queues=1)
    facts = netns.call(bed.name, netlink.interface, bed.nics[0].inside)

    def ipv6_on() -> None:
        Path(f"/proc/sys/net/ipv6/conf/{facts.name}/disable_ipv6").write_text("0")
        route(addr={"command": ("add",), "index": facts.index, "address": "fe80::7", "prefixlen": 64})

    netns.call(bed.name, ipv6_on)
    after = netns.call(bed.name, netlink.interface, facts.name)
    assert any(address.startswith("fe80::") for address in after.addresses)
    assert after.routes == ()
    assert netlink.is_in_use(after) is None
    assert netlink.is_in_use(replace(after, addresses=("2001:db8::1/64",))) is not None


@pytest.mark.live
def test_offloads_switch_and_those_that_cannot_are_left_alone(testbed: Make) -> None:
    """set_features() changes what the driver allows; an unknown or fixed feature is no error."""
    name = testbed(queues=1).nics[0].outside
    assert not ethtool.features(name)["rx-gro"]
    ethtool.set_features(name, {"rx-gro": True, "rx-fcs": True, "no-such-feature": True})
    assert ethtool.features(name)["rx-gro"]
    assert not ethtool.features(name)["rx-fcs"]


def test_what_a_nic_could_have_is_ethtools() -> None:
    """Queues and ring sizes, now and at most, are those that ethtool shows, on every interface that has any."""
    ethtool_ = shutil.which("ethtool", path="/usr/sbin:/sbin:/usr/bin:/bin") or pytest.skip("needs ethtool")

    def shown(option: str, name: str, *words: str) -> list[int] | None:
        done = subprocess.run([ethtool_, option, name], capture_output=True, text=True, timeout=20, check=False)
        for word in words:
            found = [int(number) for number in re.findall(rf"^{word}:\s*(\d+)$", done.stdout, re.MULTILINE)]
            if len(found) == 2 and found[0]:
                return [found[1], found[0]]
        return None

    def alike(name: str) -> bool:
        """Other tests change their interfaces, and remove them: then both are asked again."""
        queues, ring = ethtool.most_channels(name), ethtool.most_descriptors(name)
        told.append(bool(queues or ring))
        same = (list(queues[:2]) if queues else None) == shown("-l", name, "Combined", "RX")
        same = same and (list(ring) if ring else None) == shown("-g", name, "RX")
        return same or name not in [other for _, other in socket.if_nameindex()]

    told: list[bool] = []
    for name in (facts.name for facts in netlink.interfaces()):
        until(lambda name=name: alike(name))
    if not any(told):
        pytest.skip("no interface here has queues or rings that ethtool tells of")
