"""Filters inside the XDP program, on a real interface."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from rig import Wire, until
from wirecap.api import Capture
from wirecap.config.capture import CaptureConfig, PoolConfig
from wirecap.config.specs import QueueSpec
from wirecap.lab.testbed import Testbed

FRAMES = 50
SO_RCVBUFFORCE = 33  # asm-generic/socket.h


def udp(port: int) -> bytes:
    """A UDP packet over IPv4 and Ethernet to a port, its checksums left at zero."""
    ip = bytes.fromhex("4500002e00000000401100000a0000010a000002")
    return (
        bytes.fromhex("0200000000010200000000020800")
        + ip
        + bytes([0x10, 0, *divmod(port, 256), 0, 26, 0, 0])
        + bytes(18)
    )


def send(interface: str, *ports: int) -> None:
    with Wire(interface) as wire:
        wire.send([udp(port) for port in ports] * FRAMES)


@pytest.mark.live
@pytest.mark.parametrize("unwanted", ["drop", "host"])
@pytest.mark.parametrize("xdp_mode", ["native", "generic"])
def test_unwanted_packets_are_counted_and_never_copied(
    testbed: Callable[..., Testbed], unwanted: str, xdp_mode: str, request: pytest.FixtureRequest
) -> None:
    """The engine gets what the filter wants; the rest is filtered_out, and goes to the host where that is asked."""
    bed = testbed(queues=2)
    nic = bed.nics[0]
    config = CaptureConfig(
        sources=(QueueSpec(nic.inside),), netns=bed.name, filter="udp dst port 53", kernel_filter=unwanted,
        pool=PoolConfig(M=16, R=16), xdp_mode=xdp_mode, count=FRAMES,
    )  # fmt: skip
    received_by_host = host_listener(bed.name, nic.inside, request)
    with Capture(config) as capture:
        send(nic.outside, 53, 443)
        until(lambda: capture.summary()["packets"]["received"] == 2 * FRAMES)
        ports = [packet[37] for chunk in capture for packet in chunk]
    assert ports == [53] * FRAMES
    packets = capture.summary()["packets"]
    assert packets["received"] == 2 * FRAMES
    assert packets["filtered_out"] == FRAMES
    assert packets["drops"] == {}
    due = [187] * FRAMES if unwanted == "host" else []  # 443 = 256 + 187
    assert received_by_host(len(due)) == due


@pytest.mark.live
def test_a_long_list_is_searched_in_the_kernel(testbed: Callable[..., Testbed]) -> None:
    """3,000 ports and IPv6 networks of 33 lengths are in a map of the XDP program, native or generic.

    The sets are more than the 64 maps that a program may have; what is in none is dropped there.
    """
    bed = testbed(queues=1)
    nic = bed.nics[0]
    ports = " or ".join(f"udp dst port {port}" for port in range(1000, 4000))
    nets = " or ".join(f"net 2001:{at:x}::/{16 + at % 49}" for at in range(588) if at % 49 > 15)
    for xdp_mode in ("native", "generic"):
        config = CaptureConfig(
            sources=(QueueSpec(nic.inside),), netns=bed.name, filter=f"({ports}) and not ({nets})",
            kernel_filter="drop", pool=PoolConfig(M=16, R=16), xdp_mode=xdp_mode, count=FRAMES,
        )  # fmt: skip
        with Capture(config) as capture:
            send(nic.outside, 999, 2345, 4000)
            until(lambda capture=capture: capture.summary()["packets"]["received"] == 3 * FRAMES)
            found = {bytes(packet[36:38]) for chunk in capture for packet in chunk}
        assert found == {(2345).to_bytes(2, "big")}
        assert capture.summary()["packets"]["filtered_out"] == 2 * FRAMES


def host_listener(namespace: str, interface: str, request: pytest.FixtureRequest) -> Callable[[int], list[int]]:
    """Low bytes of the ports of UDP packets that get past the hook, to the host's own sockets."""
    from wirecap.linux import netns

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        listener.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 24)  # Linux 6.1 counts a page for each packet
        listener.bind((interface, 0x0800))
        return listener

    listener = netns.call(namespace, listen)
    request.addfinalizer(listener.close)

    def ports(due: int) -> list[int]:
        found: list[int] = []
        try:
            while True:
                listener.settimeout(30 if len(found) < due else 0.2)
                found.append(listener.recv(2048)[37])
        except TimeoutError:
            return found

    return ports
