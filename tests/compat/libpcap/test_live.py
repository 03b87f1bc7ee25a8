"""Unmodified programs on a running capture: tcpdump, dumpcap, tshark, Suricata, and libpcap's functions one by one."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig import LiveRig, Wire, flow_frames, number_of, read_pcap, read_pcapng, until
from wirecap.compat.libpcap import build, elf
from wirecap.config.capture import PoolConfig
from wirecap.errors import WirecapError
from wirecap.handlers.share import Share
from wirecap.kernels.libpcap import layout
from wirecap.lab.process import Child
from wirecap.linux import netns

pytestmark = pytest.mark.skipif(platform.machine() not in elf.MACHINES, reason="no shared objects are made here")
LISTENING = r"listening on"


@pytest.fixture(scope="session")
def library() -> str:
    return str(build.shared_object(lambda line: None))


@pytest.fixture
def shared(testbed, library, request) -> Iterator[LiveRig]:
    """A capture whose packets are shared, by the engine that the test asks for."""
    options = getattr(request, "param", {})
    bed = testbed(queues=1)
    with LiveRig(bed, handlers=["share"], **options) as rig:
        rig.bed, rig.library = bed, library
        yield rig


ENGINES = ["xdp", "packet"]
BOTH = pytest.mark.parametrize("shared", [{"engine": name} for name in ENGINES], indirect=True, ids=ENGINES)


def program(rig: LiveRig, *command: str, more: str = "") -> Child:
    """A program in the testbed's namespace, with the shared object in front of libpcap."""
    return Child(["env", f"LD_PRELOAD={rig.library} {more}", *command], rig.bed.name)


def readers(rig: LiveRig) -> int:
    """How many programs read the capture."""
    return len(rig.application.writer._readers)


def all_read(rig: LiveRig) -> bool:
    """Whether every program has given back all that it was lent."""
    return not any(reader.lent for reader in rig.application.writer._readers)


def send(rig: LiveRig, count: int, first: int = 0) -> None:
    with Wire(rig.bed.nics[0].outside) as wire:
        wire.send(flow_frames(count, first=first))


def numbers(path: Path) -> list[int]:
    read = read_pcapng if path.suffix == ".pcapng" else read_pcap
    return [number_of(packet.data) for packet in read(path)]


@pytest.mark.live("tcpdump")
@BOTH
def test_tcpdump_writes_every_packet(shared, tmp_path):
    """tcpdump gets every packet once, in order and whole, ends at its -c, and its counters say so."""
    out, nic = tmp_path / "out.pcap", shared.bed.nics[0].inside
    with program(shared, "tcpdump", "-ni", nic, "-c", "3000", "-w", str(out)) as tcpdump:
        tcpdump.wait_for(LISTENING)
        until(lambda: readers(shared) == 1)
        send(shared, 3000)
        ended = tcpdump.end(None)
    assert ended.status == 0
    assert "3000 packets captured\n3000 packets received by filter\n0 packets dropped by kernel" in ended.output
    assert numbers(out) == list(range(3000))
    assert all(packet.original == len(packet.data) == 60 for packet in read_pcap(out))
    until(lambda: readers(shared) == 0)


@pytest.mark.live("tcpdump")
def test_a_packet_of_several_cells_is_read_whole(testbed, library, tmp_path):
    """A program reads large packets where they were joined."""
    bed = testbed(queues=1, mtu=9000)
    sent = [os.urandom(14) + os.urandom(size - 14) for size in (60, 1792, 1793, 9014, 60, 5000) * 20]
    sent = [b"\x02" + frame[1:12] + b"\x88\xb5" + frame[14:] for frame in sent]
    out = tmp_path / "out.pcap"
    with LiveRig(bed, handlers=["share"], engine="xdp") as rig:
        rig.bed, rig.library = bed, library
        nic = bed.nics[0]
        with program(rig, "tcpdump", "-ni", nic.inside, "-c", str(len(sent)), "-w", str(out)) as tcpdump:
            tcpdump.wait_for(LISTENING)
            with Wire(nic.outside) as wire:
                wire.send(sent)
            assert tcpdump.end(None).status == 0
    assert [packet.data for packet in read_pcap(out)] == sent


@pytest.mark.live("tcpdump")
def test_filter_snap_length_and_precision(shared, tmp_path):
    """A filter, a snap length and nanoseconds are tcpdump's own, as with libpcap alone."""
    out, nic = tmp_path / "out.pcap", shared.bed.nics[0].inside
    options = ["-s", "50", "--time-stamp-precision", "nano", "-c", "10", "-w", str(out), "udp src port 1030"]
    with program(shared, "tcpdump", "-ni", nic, *options) as tcpdump:
        tcpdump.wait_for(LISTENING)
        for _ in range(10):
            send(shared, 20)
        ended = tcpdump.end(None)
    assert ended.status == 0, ended.output
    found = read_pcap(out)
    assert [number_of(packet.data) for packet in found] == [6] * 10
    assert {(len(packet.data), packet.original) for packet in found} == {(50, 60)}
    assert out.read_bytes()[:4] == struct.pack("<I", 0xA1B23C4D)


@pytest.mark.live("tcpdump", "dumpcap", "tshark")
@BOTH
def test_three_programs_read_the_same_packets(shared, tmp_path):
    """dumpcap, tshark and tcpdump read one capture at the same time, and each gets all of it."""
    nic = shared.bed.nics[0].inside
    dumped, printed = tmp_path / "out.pcap", tmp_path / "out.pcapng"
    with (
        program(shared, "dumpcap", "-i", nic, "-c", "500", "-P", "-w", str(dumped)) as dumpcap,
        program(shared, "tshark", "-ni", nic, "-c", "500", "-w", str(printed)) as tshark,
        program(shared, "tcpdump", "-ni", nic, "-c", "500", "-t", "udp") as tcpdump,
    ):
        for capturing in (dumpcap, tshark):  # tshark has one to ask for link types before
            capturing.wait_for("File: ")
        tcpdump.wait_for(LISTENING)
        until(lambda: readers(shared) == 3)
        send(shared, 500)
        assert [dumpcap.end(None).status, tshark.end(None).status] == [0, 0], tshark.output
        lines = re.findall(r"^IP .*UDP, length 18$", tcpdump.end(None).output, re.MULTILINE)
    assert numbers(dumped) == numbers(printed) == list(range(500))
    assert len(lines) == 500


@pytest.mark.live("suricata")
@BOTH
def test_suricata_sees_every_packet(shared, tmp_path):
    """Suricata's pcap capture counts every packet, and none dropped."""
    settings = tmp_path / "suricata.yaml"
    outputs = "outputs:\n  - eve-log: {enabled: yes, filename: eve.json, types: [flow]}\n"
    settings.write_text(f"%YAML 1.1\n---\n{outputs}pcap:\n  - interface: default\n")
    nic = shared.bed.nics[0].inside
    arguments = ["-c", str(settings), f"--pcap={nic}", "-l", str(tmp_path), "-S", "/dev/null"]
    with program(shared, "suricata", *arguments) as suricata:
        suricata.wait_for("Engine started", timeout_s=60)
        until(lambda: readers(shared) == 1)
        send(shared, 400)
        shared.done(400)
        until(lambda: all_read(shared))
        ended = suricata.end(signal.SIGINT, timeout_s=60)
    assert re.search(rf"{nic}: packets: 400, drops: 0", ended.output), ended.output
    flows = [json.loads(line) for line in (tmp_path / "eve.json").read_text().splitlines()]
    assert sum(flow["flow"]["pkts_toserver"] for flow in flows if flow["event_type"] == "flow") == 400


@pytest.mark.live("tcpdump")
@BOTH
def test_the_pool_waits_for_a_slow_program(shared, tmp_path):
    """While a program does not run, its packets stay in the pool, and it gets all of them afterwards."""
    out, nic = tmp_path / "out.pcap", shared.bed.nics[0].inside
    with program(shared, "tcpdump", "-ni", nic, "-c", "15000", "-w", str(out)) as tcpdump:
        tcpdump.wait_for(LISTENING)
        os.kill(tcpdump.pid, signal.SIGSTOP)
        for first in range(0, 15_000, 5000):
            send(shared, 5000, first)
        os.kill(tcpdump.pid, signal.SIGCONT)
        ended = tcpdump.end(None)
    assert ended.status == 0
    assert "0 packets dropped by kernel" in ended.output
    assert numbers(out) == list(range(15_000))
    assert shared.drops() == {}


@pytest.mark.live("tcpdump")
@pytest.mark.parametrize("shared", [{"engine": "xdp", "pool": PoolConfig(M=64, R=16)}], indirect=True)
def test_what_the_pool_cannot_hold_is_counted(shared, tmp_path):
    """Packets that find no room are tcpdump's 'dropped by kernel'; those that were lost before it came are not."""
    out, nic = tmp_path / "out.pcap", shared.bed.nics[0].inside
    with program(shared, "tcpdump", "-ni", nic, "-w", str(out)) as tcpdump:
        tcpdump.wait_for(LISTENING)
        os.kill(tcpdump.pid, signal.SIGSTOP)
        send(shared, 4000)
        until(lambda: shared.drops())
        with program(shared, "tcpdump", "-ni", nic, "-c", "1") as second:
            second.wait_for(LISTENING)
            os.kill(tcpdump.pid, signal.SIGCONT)
            until(lambda: shared.ended() == 4000 and all_read(shared))
            send(shared, 1)
            assert "0 packets dropped by kernel" in second.end(None).output
        until(lambda: shared.ended() == 4001)
        ended = tcpdump.end(signal.SIGINT)
    lost = sum(shared.drops().values())
    assert lost > 0
    assert f"{lost} packets dropped by kernel" in ended.output
    assert len(numbers(out)) == 4001 - lost


@pytest.mark.live("tcpdump")
def test_a_killed_program_gives_everything_back(shared, tmp_path):
    """Chunks that a killed program held go home, and the next program reads on."""
    nic = shared.bed.nics[0].inside
    with program(shared, "tcpdump", "-ni", nic, "-w", str(tmp_path / "lost.pcap")) as tcpdump:
        tcpdump.wait_for(LISTENING)
        os.kill(tcpdump.pid, signal.SIGSTOP)
        send(shared, 5000)
        until(lambda: not all_read(shared))
        tcpdump.end(signal.SIGKILL)
    until(lambda: readers(shared) == 0 and shared.delivered == 5000)
    out = tmp_path / "out.pcap"
    with program(shared, "tcpdump", "-ni", nic, "-c", "100", "-w", str(out)) as tcpdump:
        tcpdump.wait_for(LISTENING)
        send(shared, 100, first=5000)
        assert tcpdump.end(None).status == 0
    assert numbers(out) == list(range(5000, 5100))


@pytest.mark.live("tcpdump")
def test_the_end_of_the_capture_is_an_error_after_the_last_packet(shared, tmp_path):
    """When the capture ends, a program reads what is left and then fails with one line that says so."""
    out, nic = tmp_path / "out.pcap", shared.bed.nics[0].inside
    with program(shared, "tcpdump", "-Uni", nic, "-w", str(out)) as tcpdump:
        tcpdump.wait_for(LISTENING)
        send(shared, 200)
        shared.done(200)
        shared.stop()
        ended = tcpdump.end(None)
    assert ended.status == 1
    assert f"tcpdump: pcap_loop: {nic}: the running wirecap has ended" in ended.output
    assert "200 packets captured" in ended.output
    assert numbers(out) == list(range(200))


@pytest.mark.live("tcpdump")
def test_what_nobody_shares_is_real_libpcap(testbed, library, tmp_path):
    """Without a capture of the interface, and for files, the programs read as ever."""
    bed = testbed(queues=1)
    out, nic = tmp_path / "out.pcap", bed.nics[0].inside
    preloaded = ["env", f"LD_PRELOAD={library}", "tcpdump", "-n"]
    with Child([*preloaded, "-i", nic, "-c", "5", "-w", str(out), "udp"], bed.name) as tcpdump:
        tcpdump.wait_for(LISTENING)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(5))
        assert tcpdump.end(None).status == 0
    assert numbers(out) == list(range(5))
    with Child([*preloaded, "-r", str(out), "udp port 1026"]) as tcpdump:
        ended = tcpdump.end(None)
    assert ended.status == 0
    assert len(re.findall("length 18", ended.output)) == 1
    with Child([*preloaded, "-i", "nosuch0"], bed.name) as tcpdump:
        ended = tcpdump.end(None)
    assert ended.status == 1
    assert "nosuch0" in ended.output


CALLS = """
import ctypes, os, select, signal, sys, threading, time
P, I = ctypes.c_void_p, ctypes.c_int
lib = ctypes.CDLL(None)
for name, kind in {"pcap_open_live": P, "pcap_create": P, "pcap_next": P, "pcap_geterr": ctypes.c_char_p}.items():
    getattr(lib, name).restype = kind
class Header(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("part", ctypes.c_long), ("captured", ctypes.c_uint32),
                ("original", ctypes.c_uint32)]
class Stats(ctypes.Structure):
    _fields_ = [("received", ctypes.c_uint), ("dropped", ctypes.c_uint), ("by_interface", ctypes.c_uint)]
HANDLER = ctypes.CFUNCTYPE(None, P, ctypes.POINTER(Header), P)
error = ctypes.create_string_buffer(256)
pcap = P(lib.pcap_open_live(sys.argv[1].encode(), 65535, 1, 100, error))
assert pcap.value, error.value
def told(): return lib.pcap_geterr(pcap).decode()
def number(address): return int.from_bytes(ctypes.string_at(address + 42, 8), "big")
def ask(count): print(count, flush=True); sys.stdin.readline()
"""


@pytest.fixture
def calls(shared, tmp_path):
    """``calls(code)`` runs Python code in front of which are CALLS; ``ask(n)`` in it has n packets sent."""

    def run(code: str) -> str:
        script = tmp_path / "calls.py"
        script.write_text(CALLS + code)
        with program(shared, sys.executable, str(script), shared.bed.nics[0].inside, more="libpcap.so.0.8") as child:
            sent: list[int] = []

            def asks() -> list[int]:
                return [int(number) for number in re.findall(r"^(\d+)$", child.output, re.MULTILINE)]

            while until(lambda: len(asks()) > len(sent) or not child.running) and child.running:
                sent.append(asks()[-1])
                send(shared, sent[-1])
                shared.done(sum(sent))
                child._process.stdin.write(b"\n")
                child._process.stdin.flush()
            ended = child.end(None)
        assert ended.status == 0, ended.output
        return ended.output

    return run


@pytest.mark.live
def test_next_dispatch_and_loop(calls):
    """pcap_next, pcap_next_ex, pcap_dispatch and pcap_loop hand over packets in order, as many as were asked for."""
    output = calls("""
ask(8)
header, at = Header(), ctypes.POINTER(Header)()
assert number(lib.pcap_next(pcap, ctypes.byref(header))) == 0
assert (header.captured, header.original) == (60, 60) and abs(header.seconds - time.time()) < 60
data = P()
assert lib.pcap_next_ex(pcap, ctypes.byref(at), ctypes.byref(data)) == 1
assert number(data.value) == 1 and at.contents.captured == 60 and at.contents.part < 1_000_000
seen = []
handler = HANDLER(lambda user, header, data: seen.append((user, number(data), header.contents.captured)))
while len(seen) < 3:
    assert 0 <= lib.pcap_dispatch(pcap, 3 - len(seen), handler, P(99)) <= 3
assert seen == [(99, 2, 60), (99, 3, 60), (99, 4, 60)]
assert lib.pcap_loop(pcap, 3, handler, None) == 0
assert [one[1] for one in seen[3:]] == [5, 6, 7] and seen[-1][0] is None
assert lib.pcap_next_ex(pcap, ctypes.byref(at), ctypes.byref(data)) == 0  # the timeout of 100 ms
assert lib.pcap_dispatch(pcap, -1, handler, None) == 0
stats = Stats()
assert lib.pcap_stats(pcap, ctypes.byref(stats)) == 0
assert (stats.received, stats.dropped, stats.by_interface) == (8, 0, 0)
lib.pcap_close(pcap)
print("fine")
""")
    assert output.endswith("fine\n")


@pytest.mark.live
def test_packets_right_after_the_greeting_are_seen(shared, monkeypatch, tmp_path):
    """A program may expect every packet from the moment at which it was let in."""
    greet, greeted, arrived = Share._greet, threading.Event(), threading.Event()

    def greet_and_wait(*arguments) -> None:
        greet(*arguments)
        greeted.set()
        assert arrived.wait(100)
        time.sleep(0.02)  # in which the chunk would reach nobody

    monkeypatch.setattr(Share, "_greet", greet_and_wait)
    out = tmp_path / "out.pcap"
    with program(shared, "tcpdump", "-ni", shared.bed.nics[0].inside, "-c", "3", "-w", str(out)) as tcpdump:
        assert greeted.wait(60)
        send(shared, 3)
        until(lambda: sum(counts.received for counts in shared.engine.summary().queues) == 3)
        arrived.set()
        assert tcpdump.end(None).status == 0
    assert numbers(out) == [0, 1, 2]


@pytest.mark.live
def test_waiting_without_blocking(calls):
    """A non-blocking handle returns at once; its descriptor is readable while there are packets, and then not."""
    output = calls("""
assert lib.pcap_getnonblock(pcap, error) == 0 and lib.pcap_setnonblock(pcap, 1, error) == 0
assert lib.pcap_getnonblock(pcap, error) == 1
seen = []
handler = HANDLER(lambda user, header, data: seen.append(number(data)))
assert lib.pcap_dispatch(pcap, -1, handler, None) == 0
fd = lib.pcap_get_selectable_fd(pcap)
assert fd >= 0 and lib.pcap_get_required_select_timeout(pcap) == 0
assert select.select([fd], [], [], 0)[0] == []
ask(5)
while len(seen) < 5:
    assert select.select([fd], [], [], 10)[0] == [fd]
    assert lib.pcap_dispatch(pcap, 2, handler, None) >= 0
assert seen == [0, 1, 2, 3, 4]
assert lib.pcap_dispatch(pcap, -1, handler, None) == 0
assert select.select([fd], [], [], 0)[0] == []
print("fine")
""")
    assert output.endswith("fine\n")


@pytest.mark.live
def test_breakloop(calls):
    """pcap_breakloop ends a loop from its callback, from another thread and from a signal handler."""
    output = calls("""
BREAK = -2
seen = []
def one(user, header, data):
    seen.append(number(data))
    if len(seen) == 2:
        lib.pcap_breakloop(pcap)
handler = HANDLER(one)
ask(3)
assert lib.pcap_loop(pcap, -1, handler, None) == BREAK and seen == [0, 1]
assert lib.pcap_loop(pcap, 1, handler, None) == 0 and seen == [0, 1, 2]
threading.Timer(0.2, lib.pcap_breakloop, [pcap]).start()
assert lib.pcap_loop(pcap, -1, handler, None) == BREAK
threading.Timer(0.2, lib.pcap_breakloop, [pcap]).start()
data, at = P(), ctypes.POINTER(Header)()
while (found := lib.pcap_next_ex(pcap, ctypes.byref(at), ctypes.byref(data))) == 0:
    pass
assert found == BREAK
print("fine")
""")
    assert output.endswith("fine\n")


@pytest.mark.live
def test_what_libpcap_says_of_the_handle(calls):
    """Link type, snap length, filters and errors of a served handle are libpcap's, each error one line."""
    output = calls("""
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("code", P)]
assert lib.pcap_datalink(pcap) == 1 and lib.pcap_snapshot(pcap) == 65535
assert lib.pcap_activate(pcap) == -4 and "activated already" in told()
assert lib.pcap_set_snaplen(pcap, 10) == -4 and lib.pcap_set_timeout(pcap, 10) == -4
assert lib.pcap_can_set_rfmon(pcap) == -4
assert lib.pcap_setdirection(pcap, 0) == 0
assert lib.pcap_setdirection(pcap, 1) == -1 and told().endswith("give -Q to it")
program = Program()
assert lib.pcap_compile(pcap, ctypes.byref(program), b"udp src port 1026 or 1028", 1, 0) == 0
assert lib.pcap_setfilter(pcap, ctypes.byref(program)) == 0
lib.pcap_freecode(ctypes.byref(program))
assert lib.pcap_compile(pcap, ctypes.byref(program), b"udp and", 1, 0) == -1 and "syntax error" in told()
code = (ctypes.c_ubyte * 8)(0xff, 0xff)
assert lib.pcap_setfilter(pcap, ctypes.byref(Program(1, ctypes.addressof(code)))) == -1
assert told().endswith(": the filter is not a valid BPF program")
ask(6)
seen = []
handler = HANDLER(lambda user, header, data: seen.append(number(data)))
assert lib.pcap_loop(pcap, 2, handler, None) == 0 and seen == [2, 4]
assert lib.pcap_sendpacket(pcap, b"x" * 60, 60) == -1 and told()
print("fine")
""")
    assert output.endswith("fine\n")


@pytest.mark.live
def test_many_handles(calls):
    """More handles than the table holds are opened and closed one after the other, and nothing is left over."""
    output = calls("""
def opened(): return len(os.listdir("/proc/self/fd"))
before = opened()
for turn in range(150):
    other = P(lib.pcap_open_live(sys.argv[1].encode(), 100, 0, 10, error))
    assert other.value, error.value
    lib.pcap_close(other)
assert opened() == before
for turn in range(4):
    lib.pcap_close(P(lib.pcap_create(b"none", error)))  # libpcap 1.10.3 leaves an eventfd open
left, before = opened() - before, opened()
for turn in range(4):
    other = P(lib.pcap_create(sys.argv[1].encode(), error))
    assert lib.pcap_activate(other) == 0
    lib.pcap_close(other)
assert opened() - before == left
print("fine")
""")
    assert output.endswith("fine\n")


@pytest.mark.live("tcpdump")
def test_another_users_name_is_not_trusted(testbed, library):
    """A socket of the capture's name that another user has bound is passed over: real libpcap captures."""
    bed = testbed(queues=1)
    nic = bed.nics[0].inside
    squat = (
        "import os, socket, time; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.bind(b'\\0{layout.SOCKET_PREFIX}{nic}'); s.listen(); print('bound', flush=True); time.sleep(1000)"
    )
    with Child([sys.executable, "-c", squat], bed.name) as other:
        other.wait_for("bound")
        with Child(["env", f"LD_PRELOAD={library}", "tcpdump", "-ni", nic, "-c", "1", "udp"], bed.name) as tcpdump:
            tcpdump.wait_for(LISTENING)
            with Wire(bed.nics[0].outside) as wire:
                wire.send(flow_frames(1))
            assert tcpdump.end(None).status == 0


@pytest.mark.live
def test_another_user_gets_nothing(shared):
    """A program of another user that connects gets no descriptors, and the capture carries on."""
    name = f"b'\\0{layout.SOCKET_PREFIX}{shared.bed.nics[0].inside}'"
    code = (
        "import os, socket; os.setuid(65534); s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        f"s.connect({name}); print(socket.recv_fds(s, 4096, 16)[:2])"
    )
    with Child([sys.executable, "-c", code], shared.bed.name) as other:
        ended = other.end(None)
    assert ended.output == "(b'', [])\n"
    until(lambda: readers(shared) == 0)


@pytest.mark.live("tcpdump")
def test_another_version_is_refused_in_one_line(testbed, library):
    """A capture of another version is not misread: the program says what to do."""
    bed = testbed(queues=1)
    nic = bed.nics[0].inside
    listener = netns.call(bed.name, socket.socket, socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with listener:
        listener.bind(b"\0" + (layout.SOCKET_PREFIX + nic).encode())
        listener.listen()
        with Child(["env", f"LD_PRELOAD={library}", "tcpdump", "-ni", nic], bed.name) as tcpdump:
            channel, _ = listener.accept()
            with channel:
                fds = [os.memfd_create("x") for _ in range(4)]
                words = [layout.VERSION + 1, 1, 1, 4096, 4096, 8, 256, 0]
                socket.send_fds(channel, [struct.pack("<8q", *words)], fds)
                ended = tcpdump.end(None)
            for fd in fds:
                os.close(fd)
    assert ended.status == 1
    assert f"{nic}: the running wirecap is another version" in ended.output


@pytest.mark.live
def test_one_capture_shares_an_interface(shared):
    """A second capture that would share the same interface is refused by name."""
    with pytest.raises(WirecapError, match="another wirecap shares this interface"):
        LiveRig(shared.bed, handlers=["share"], engine="packet").__enter__()


@pytest.mark.live("tcpdump")
def test_the_lines_that_the_documentation_gives(testbed, library):
    """The two lines of docs/libpcap.md, as a user types them: the program reads, and the capture counts and ends."""
    bed = testbed(queues=1)
    nic, wirecap = bed.nics[0].inside, f"{sys.executable} -m wirecap"
    with Child([*wirecap.split(), "capture", "--netns", bed.name, "-i", nic, "--handler", "share"]) as capture:
        capture.wait_for("capturing on", timeout_s=120)
        line = f"LD_PRELOAD=$({wirecap} libpcap) exec tcpdump -ni {nic} -c 3 udp src port 1026"
        with Child(["sh", "-c", line], bed.name) as tcpdump:
            tcpdump.wait_for(LISTENING, timeout_s=120)
            with Wire(bed.nics[0].outside) as wire:
                for _ in range(3):
                    wire.send(flow_frames(5))
            printed = tcpdump.end(None).output
        ended = capture.end(signal.SIGINT)
    assert len(re.findall(r"1026 > .*: UDP, length 18$", printed, re.MULTILINE)) == 3
    assert ended.status == 0
    assert ended.output.endswith("15 packets captured\n15 packets received by filter\n0 packets dropped\n")


@pytest.mark.live("tcpdump")
def test_several_queues_and_any(testbed, library, tmp_path):
    """All queues of an interface reach the program, each in order; 'any' is an interface by that name."""
    bed = testbed(queues=4)
    out = tmp_path / "out.pcap"
    with LiveRig(bed, "any", handlers=["share"], engine="packet") as rig:
        rig.bed, rig.library = bed, library
        with program(rig, "tcpdump", "-ni", "any", "-c", "50", "-w", str(out), "udp") as tcpdump:
            tcpdump.wait_for(LISTENING)
            send(rig, 50)
            assert tcpdump.end(None).status == 0
    assert len(read_pcap(out)) == 50
    with LiveRig(bed, handlers=["share"], engine="packet") as rig:
        rig.bed, rig.library = bed, library
        with program(rig, "tcpdump", "-ni", bed.nics[0].inside, "-c", "400", "-w", str(out)) as tcpdump:
            tcpdump.wait_for(LISTENING)
            send(rig, 400)
            assert tcpdump.end(None).status == 0
        used = [queue.delivered for queue in rig.engine.summary().queues]
    assert sorted(numbers(out)) == list(range(400))
    assert sum(count > 0 for count in used) > 1
