"""The testbed: made whole, changed in place, removed without a trace."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
from click.testing import CliRunner

from rig import until
from wirecap.cli.testbed import group
from wirecap.errors import UsageError
from wirecap.lab import testbed as lab
from wirecap.linux import asm, bpf, ethtool, netlink, netns

Make = Callable[..., lab.Testbed]


def links(name: str) -> list[str]:
    return [text for _, text in socket.if_nameindex() if text.startswith(name)]


def add_veth(name: str, peer: str) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as route:
        route.link("add", ifname=name, kind="veth", peer={"ifname": peer})


@pytest.mark.live
def test_shape(testbed: Make) -> None:
    """Each NIC is a pair, Xk inside and Xkp outside, with the queues asked for and both ends up."""
    bed = testbed(queues=4, nics=2)
    assert [(nic.inside, nic.outside) for nic in bed.nics] == [(f"{bed.name}{k}", f"{bed.name}{k}p") for k in range(2)]
    assert all(nic.queues == 4 and nic.up and nic.mtu == 1500 for nic in bed.nics)
    inside = [facts.name for facts in netns.call(bed.name, netlink.interfaces)]
    assert {nic.inside for nic in bed.nics} <= set(inside)
    assert links(bed.name) == [nic.outside for nic in bed.nics]


@pytest.mark.live
def test_up_twice_leaves_it_alone(testbed: Make) -> None:
    """The same shape again keeps the same interfaces; another shape replaces them, fewer NICs remove some."""
    bed = testbed(queues=2, nics=2)
    before = [netlink.interface(nic.outside).index for nic in bed.nics]
    assert lab.up(bed.name, queues=2, nics=2) == bed
    assert [netlink.interface(nic.outside).index for nic in bed.nics] == before
    changed = lab.up(bed.name, queues=3, nics=1, mtu=3000)
    assert [(nic.queues, nic.mtu) for nic in changed.nics] == [(3, 3000)]
    assert links(bed.name) == [f"{bed.name}0p"]


@pytest.mark.live
def test_nothing_but_traffic(testbed: Make) -> None:
    """A testbed left alone sends not one packet, and changes none: every offload is off at both ends."""
    bed = testbed(queues=2)
    for facts in (netlink.interface(bed.nics[0].outside), netns.call(bed.name, netlink.interface, bed.nics[0].inside)):
        assert facts.addresses == ()
    for namespace, name in ((None, bed.nics[0].outside), (bed.name, bed.nics[0].inside)):
        on = {text for text, value in netns.call(namespace, ethtool.features, name).items() if value}
        assert not [text for text in on if ethtool.is_offload(text)]
    with netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as reader:
        netns.call(bed.name, reader.bind, (bed.nics[0].inside, 3))  # ETH_P_ALL
        reader.settimeout(1.0)
        with pytest.raises(TimeoutError):
            reader.recv(100)


@pytest.mark.live
def test_it_is_there_when_it_is_said(testbed: Make) -> None:
    """Both ends of every NIC are operational at once: nothing that is sent now is dropped by a link not yet active."""
    for nics in (1, 3, 4):
        bed = testbed(queues=2, nics=nics)
        for nic in bed.nics:
            assert netlink.interface(nic.outside).state == "up"
            assert netns.call(bed.name, netlink.interface, nic.inside).state == "up"


@pytest.mark.live
def test_frames_cross_it_unchanged(testbed: Make) -> None:
    """A frame sent at the outside end arrives inside byte for byte, up to the MTU."""
    bed = testbed(queues=2)
    nic = bed.nics[0]
    with (
        netns.call(bed.name, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0) as reader,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as writer,
    ):
        reader.bind((nic.inside, 3))
        reader.settimeout(1.0)
        writer.bind((nic.outside, 0))

        def crosses(frame: bytes) -> bool:
            """A kernel whose backlog is full of other tests' packets drops the frame: it is sent again."""
            writer.send(frame)
            try:
                return reader.recv(4096) == frame
            except TimeoutError:
                return False

        for length in (60, 1514):
            until(partial(crosses, b"\x02" * 12 + b"\x88\xb5" + os.urandom(length - 14)))


@pytest.mark.live
def test_native_xdp_attaches(testbed: Make) -> None:
    """The capture side takes an XDP program in native mode, and status says so."""
    bed = testbed(queues=4)
    program = bpf.Program(asm.assemble([("mov_imm", 0, 0, 0, bpf.XDP_DROP), ("exit", 0, 0, 0, 0)]))
    index = netns.call(bed.name, netlink.interface, bed.nics[0].inside).index
    link = netns.call(bed.name, program.attach, index, bpf.XDP_DRV_MODE)
    assert lab.status(bed.name).nics[0].xdp == "native"
    link.close()
    assert lab.status(bed.name).nics[0].xdp == ""


@pytest.mark.live
def test_down_leaves_nothing(testbed: Make) -> None:
    """After down() neither interfaces nor the namespace are left, and a second one says there was nothing."""
    bed = testbed(queues=2, nics=3)
    assert lab.down(bed.name)
    assert links(bed.name) == []
    assert bed.name not in netns.names()
    assert not lab.down(bed.name)
    assert lab.status(bed.name) == lab.Testbed(bed.name, False, ())


def file_without_namespace(name: str) -> None:
    netns.FOLDER.mkdir(exist_ok=True)
    (netns.FOLDER / name).touch()


def namespace_alone(name: str) -> None:
    netns.create(name)


def pair_outside(name: str) -> None:
    netns.create(name)
    add_veth(f"{name}0p", f"{name}0")


def pair_without_namespace(name: str) -> None:
    add_veth(f"{name}1p", f"{name}1")


def namespace_unnamed_but_alive(name: str) -> None:
    """``ip netns delete`` while a process is inside: the pair lives on, nameless at its other end."""
    lab.up(name, queues=2)
    sleeper = [sys.executable, "-c", "import time; time.sleep(1000)"]
    sleepers.append(netns.call(name, subprocess.Popen, sleeper))
    netns.delete(name)


sleepers: list[subprocess.Popen[bytes]] = []
HALVES = (file_without_namespace, namespace_alone, pair_outside, pair_without_namespace, namespace_unnamed_but_alive)


@pytest.fixture
def awake() -> object:
    yield
    while sleepers:
        sleeper = sleepers.pop()
        sleeper.kill()
        sleeper.wait()


@pytest.mark.live
@pytest.mark.parametrize("half", HALVES)
def test_down_removes_every_half(fresh_name: str, awake: object, half: Callable[[str], None]) -> None:
    """Whatever an interrupted run left, down() removes it."""
    half(fresh_name)
    assert lab.down(fresh_name)
    assert links(fresh_name) == []
    assert fresh_name not in netns.names()


@pytest.mark.live
@pytest.mark.parametrize("half", HALVES)
def test_up_repairs_every_half(fresh_name: str, awake: object, half: Callable[[str], None]) -> None:
    """Whatever an interrupted run left, up() makes a whole testbed of it."""
    half(fresh_name)
    assert [nic.queues for nic in lab.up(fresh_name, queues=2).nics] == [2]
    assert links(fresh_name) == [f"{fresh_name}0p"]


@pytest.mark.live
def test_a_testbed_with_a_longer_name_is_left_alone(testbed: Make, fresh_name: str) -> None:
    """X with eleven NICs and X1 would share interface names: each touches only its own."""
    longer = fresh_name + "1"
    try:
        lab.up(longer, queues=1)
        lab.up(fresh_name, queues=1)
        assert lab.down(fresh_name)
        assert len(lab.status(longer).nics) == 1
        with pytest.raises(UsageError, match="choose another"):
            lab.up(fresh_name, queues=1, nics=11)
    finally:
        lab.down(longer)
        lab.down(fresh_name)


@pytest.mark.live
def test_orphans_are_those_of_ended_processes() -> None:
    """remove_orphans() removes what an ended process left, and nothing of one that runs."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    prefix = f"wo{os.getpid() % 1000}x"
    orphan, living = f"{prefix}{ended.pid}a", f"{prefix}{os.getpid()}a"
    try:
        for name in (orphan, living):
            netns.create(name)
        lab.remove_orphans(prefix)
        assert orphan not in netns.names()
        assert living in netns.names()
    finally:
        netns.delete(orphan)
        netns.delete(living)


@pytest.mark.live
def test_foreign_interfaces_are_not_removed(fresh_name: str) -> None:
    """A namespace that holds something else is kept, and the message names it."""
    lab.up(fresh_name, queues=1)
    netns.call(fresh_name, add_veth, "other", "other2")
    with pytest.raises(UsageError, match="other"):
        lab.down(fresh_name)
    assert fresh_name in netns.names()
    assert links(fresh_name) == []
    netns.delete(fresh_name)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ({"name": "abcdefghijklm"}, None),
        ({"name": "abcdefghijklmn"}, "longer than 15"),
        ({"name": "abcdefghijklm", "nics": 11}, "longer than 15"),
        ({"name": "x/y"}, "is not a testbed name"),
        ({"name": ""}, "is not a testbed name"),
        ({"queues": 0}, "queues"),
        ({"nics": 0}, "NICs"),
        ({"mtu": 20}, "MTU"),
    ],
)
def test_bad_shapes(shape: dict[str, object], text: str | None) -> None:
    """A shape that cannot be is refused before anything is made, with what would do."""
    arguments = {"name": "x", "queues": 1, "nics": 1, "mtu": 1500, **shape}
    if text is None:
        lab._check(**arguments)
        return
    with pytest.raises(UsageError, match=text):
        lab._check(**arguments)


@pytest.mark.live
def test_without_privileges_the_capability_is_named(fresh_name: str) -> None:
    """Who may not make interfaces reads one line that names CAP_NET_ADMIN."""
    code = (
        "import os, pyroute2\n"
        "from wirecap.lab import testbed\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try: testbed.up({fresh_name!r})\n"
        "except Exception as error: print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "CAP_NET_ADMIN" in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.live
def test_command_line(fresh_name: str) -> None:
    """up, status and down work from the command line; --json gives the shape; status of nothing is exit 1."""
    run = CliRunner()
    made = run.invoke(group, ["up", "--name", fresh_name, "--queues", "2", "--nics", "2", "--json"])
    assert made.exit_code == 0, made.output
    assert [nic["queues"] for nic in json.loads(made.output)["nics"]] == [2, 2]
    shown = run.invoke(group, ["status", "--name", fresh_name])
    assert f"send on {fresh_name}1p -> capture on {fresh_name}1: 2 queues" in shown.output
    assert run.invoke(group, ["down", "--name", fresh_name]).exit_code == 0
    assert run.invoke(group, ["status", "--name", fresh_name]).exit_code == 1
