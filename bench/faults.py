"""What a capture does when things go wrong around it: each fault on a real testbed, the accounting checked afterwards.

Every fault ends in one of two ways: the capture goes on, or it ends with its reason in one line.  In both, each packet
that reached the hook is delivered, or counted under a name; a capture that was killed leaves whole blocks, and nothing
that keeps the next one from starting.

    sudo .venv/bin/python bench/faults.py
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from rich.table import Table

import common
import doc_blocks
import faults_beside
from fault_rig import (
    BrokenError,
    ImpossibleError,
    Length,
    Outcome,
    Setting,
    free_port,
    loop_device,
    mounted,
    require,
    tool,
    wait,
    whole_packets,
)
from wirecap.errors import SystemCallError, WirecapError
from wirecap.lab import process, testbed
from wirecap.linux import asm, bpf, netlink, netns
from wirecap.observe import counters_file
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

SHORT = Length(5, 1.0, 1.5, 10_000)
CRASHING = """
import wirecap

@wirecap.chunk_handler
def crashes(chunk):
    if any(len(packet) == 99 for packet in chunk):
        raise ValueError("made to crash")
"""


# what may go wrong in the program


def handler_crash(s: Setting) -> Outcome:
    """a handler crashes"""
    script = s.folder / "crashing.py"
    script.write_text(CRASHING)
    with s.capture("--handler", f"{script}:crashes") as child:
        s.send(2_000)
        s.send_any(100, 99)
        ended = child.end(None)
    return s.told("", ended, False, {"unread_at_stop"})


def handler_crash_kept(s: Setting) -> Outcome:
    """a handler crashes, `--keep-going`"""
    script = s.folder / "crashing.py"
    script.write_text(CRASHING)
    with s.capture("--handler", f"{script}:crashes", "--keep-going") as child:
        s.send(1, 99)
        s.send(2_000)
        ended = child.end()
    return s.told("", ended, True)


def kills(s: Setting) -> Outcome:
    """SIGKILL at a random moment"""
    runtime = s.folder / "runtime"
    files = s.folder / "files"
    runtime.mkdir()
    files.mkdir()
    before = os.environ.get("WIRECAP_RUNTIME_DIR")
    os.environ["WIRECAP_RUNTIME_DIR"] = str(runtime)
    count, packets, read = s.length.kills, 0, set()
    command = [*common.WIRECAP, "capture", "--netns", s.bed.name, "-i", s.inside, "-w", str(files / "out.pcapng"),
               "-b", "filesize:2000", "--limit", "20M", "--index", "--metrics", f"127.0.0.1:{free_port()}"]  # fmt: skip
    try:
        for _ in range(count):
            with process.Child(command) as child, LiveFrames(s.outside, synthetic.udp(1000)) as sender:
                early = s.rng.random() < 0.3
                if not early:
                    child.wait_for("capturing on", 60)
                sending = threading.Thread(target=_send_quietly, args=(sender,))
                sending.start()
                time.sleep(s.rng.uniform(0, 0.6))
                child.end(signal.SIGKILL)
                sender.stop()
                sending.join()
            wait(lambda: netns.call(s.bed.name, netlink.interface, s.inside).xdp_mode == "", "a clean interface")
            for path in files.glob("*.pcapng"):
                if path not in read or path == max(files.glob("*.pcapng"), key=lambda p: p.stat().st_mtime_ns):
                    packets += whole_packets(path)
                    read.add(path)
            used = sum(path.stat().st_size for path in files.iterdir())
            require(used <= 20_000_000 + 2_100_000, f"the limit of 20 MB does not hold: {used} bytes")
            require(not [found for found in counters_file.scan(runtime) if found.counters], "a dead capture lives")
        found = subprocess.run([*common.WIRECAP, "find", "", str(files)], capture_output=True, text=True,
                               timeout=120, check=False)  # fmt: skip
        require(found.returncode == 0, f"find fails: {found.stderr}")
        with s.capture("-w", str(files / "last.pcapng")) as child:
            sent = s.send(1000)
            ended = child.end()
        outcome = s.told("", ended, True)
        require(outcome.delivered == sent, "the next capture misses packets")
        left = [path.name for path in runtime.iterdir()]
        require(not left, f"left behind: {left}")
    finally:
        if before is None:
            del os.environ["WIRECAP_RUNTIME_DIR"]
        else:
            os.environ["WIRECAP_RUNTIME_DIR"] = before
    outcome.result = f"{count} of {count}: interface clean, {len(read)} files whole, the next one starts"
    return outcome


def _send_quietly(sender: LiveFrames) -> None:
    with contextlib.suppress(WirecapError):  # nobody took any: killed before it was attached
        sender.send_paced(200_000, 100_000)


# disks and pipes


def disk_full(s: Setting) -> Outcome:
    """the disk is full"""
    with mounted(s.folder / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        path = s.folder / "small" / "out.pcapng"
        with s.capture("-w", str(path)) as child:
            s.send_any(20_000, 1000, 100_000)
            ended = child.end(None)
        outcome = s.told("", ended, False, {"unread_at_stop", "pool_exhausted"})
        require(f"{whole_packets(path)} packets were written" in outcome.said, f"{outcome.said}")
    return outcome


def disk_error(s: Setting) -> Outcome:
    """the disk fails in the middle (EIO)"""
    backing = s.folder / "disk"
    with loop_device(backing, 64 << 20) as device, mounted(s.folder / "bad", device):
        with s.capture("-w", str(s.folder / "bad" / "out.pcapng")) as child:
            s.send(4_000, 1000, 100_000)
            os.truncate(backing, 4 << 20)  # what lies behind that can be read and written no more
            tool("losetup", "--set-capacity", device)
            s.send_any(20_000, 1000, 100_000)
            ended = child.end(None)
        outcome = s.told("", ended, False, {"unread_at_stop", "pool_exhausted"})
    require("Input/output error" in outcome.said, outcome.said)
    return outcome


def disk_slow(s: Setting) -> Outcome:
    """the disk is slow (4 MB/s)"""
    group = Path("/sys/fs/cgroup/blkio") / f"wirecap-{os.getpid()}"
    with loop_device(s.folder / "disk", 256 << 20) as device, mounted(s.folder / "slow", device):
        try:
            group.mkdir()
        except OSError as error:
            raise ImpossibleError(f"no blkio cgroup: {error.strerror}") from None
        try:
            number = Path(device).stat().st_rdev
            throttle = group / "blkio.throttle.write_bps_device"
            if not throttle.exists():
                raise ImpossibleError("the kernel cannot throttle disks (no CONFIG_BLK_DEV_THROTTLING)")
            throttle.write_text(f"{os.major(number)}:{os.minor(number)} 4000000")
            with s.capture("-w", str(s.folder / "slow" / "out.pcapng"), "-R", "5") as child:
                (group / "cgroup.procs").write_text(str(child.pid))
                s.send(s.length.slow_packets, 1000, 30_000)
                ended = child.end(timeout_s=120)
            return s.told("", ended, True, {"pool_exhausted"})
        finally:
            wait(lambda: not (group / "cgroup.procs").read_text().strip(), "an empty cgroup")
            group.rmdir()


def closed_pipe(s: Setting) -> Outcome:
    """the reader of the output pipe goes away"""
    pipe = s.folder / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["head", "-c", "2000", str(pipe)], stdout=subprocess.DEVNULL)
    with s.capture("-w", str(pipe)) as child:
        s.send_any(5_000, rate=10_000)
        reader.wait(30)
        s.send_any(5_000, rate=10_000)
        ended = child.end(None)
    return s.told("", ended, ended.status == 0, {"unread_at_stop"})


# interfaces


def down_and_up(s: Setting) -> Outcome:
    """the interface goes down and up"""
    with s.capture() as child:
        sent = s.send(1_000)
        s.ip("link", "set", s.inside, "down")
        s.ip("link", "set", s.inside, "up")
        wait(lambda: netlink.interface(s.outside).state == "up", "the link")
        sent += s.send(1_000)
        ended = child.end()
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    return outcome


def deleted(s: Setting) -> Outcome:
    """the interface is deleted under traffic"""
    with s.capture() as child:
        _under_traffic(s, lambda: s.ip("link", "del", s.inside))
        ended = child.end(None)
    return s.told("", ended, False, {"capture_late", "pool_exhausted"})


def recreated(s: Setting) -> Outcome:
    """deleted and recreated, `--keep-going`"""
    with s.capture("--keep-going") as child:
        _under_traffic(s, lambda: s.ip("link", "del", s.inside))
        child.wait_for("is gone: waiting")
        s.ip("link", "add", s.outside, "numrxqueues", "2", "numtxqueues", "2", "type", "veth", "peer", "name", s.inside,
             "numrxqueues", "2", "numtxqueues", "2", "netns", s.bed.name, inside=False)  # fmt: skip
        s.ip("link", "set", s.inside, "addrgenmode", "none", "up")
        s.ip("link", "set", s.outside, "addrgenmode", "none", "up", inside=False)
        child.wait_for("is back")
        sent = s.send(1_000)
        s.ip("link", "del", s.inside)
        wait(lambda: child.output.count("is gone: waiting") == 2, "the second time")
        ended = child.end()
    outcome = s.told("", ended, True, {"capture_late", "pool_exhausted"})
    require(sent == 1_000 and outcome.delivered >= sent, f"{sent} sent, {outcome.delivered} delivered")
    return outcome


def _under_traffic(s: Setting, happens: Callable[[], None]) -> None:
    """Let something happen while packets come at full speed."""
    with LiveFrames(s.outside, synthetic.udp(60)) as sender:
        sending = threading.Thread(target=_flood, args=(sender,))
        sending.start()
        time.sleep(0.2)
        happens()
        time.sleep(0.1)
        sender.stop()
        sending.join()


def _flood(sender: LiveFrames) -> None:
    with contextlib.suppress(WirecapError):  # the interface went away, or nobody takes packets
        sender.send(20_000_000)


def channels(s: Setting, queues: str) -> None:
    """A veth wants at least as many receive queues as its peer sends on."""
    tool("ethtool", "--version")
    ways = [(s.bed.name, s.inside, "rx"), (None, s.outside, "tx")]
    for where, name, way in ways if queues == "2" else reversed(ways):
        netns.call(where, tool, "ethtool", "-L", name, way, queues)


def queue_count(s: Setting) -> Outcome:
    """`ethtool -L`: a queue that is captured, then one that is not"""
    with s.capture(queues="@0") as child:
        sent = s.send(1_000, cpu=0)
        channels(s, "1")
        sent += s.send(1_000, cpu=0)
        channels(s, "2")
        sent += s.send(1_000, cpu=0)
        ended = child.end()
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    with s.capture() as child:
        try:
            channels(s, "1")
            outcome.result = "goes on"
        except ImpossibleError:
            outcome.result = "goes on; the kernel does not take a captured queue away"
        s.send(1_000)
        s.told("", child.end(), True)
    return outcome


def mtu(s: Setting) -> Outcome:
    """the MTU changes"""
    with s.capture("--keep-going") as child:
        sent = s.send(1_000)
        for size in ("1400", "1500"):
            s.ip("link", "set", s.inside, "mtu", size)
            sent += s.send(1_000)
        ended = child.end()
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    return outcome


def queues_added(s: Setting) -> Outcome:
    """`ethtool -L`: a queue comes that was not there"""
    channels(s, "1")
    with s.capture() as child:
        sent = s.send(1_000, cpu=0)
        channels(s, "2")
        child.wait_for("receive queues now", 60)
        sent += s.send(1_000, cpu=0)
        ended = child.end()
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    (line,) = [line for line in ended.output.splitlines() if "receive queues now" in line]
    outcome.result, outcome.said = "goes on, and says what it misses", line.strip().removeprefix("wirecap: ")
    return outcome


def other_program(s: Setting) -> Outcome:
    """another XDP program, or another capture, wants the interface later"""
    with s.capture() as child:
        second = refused(s)
        with harmless() as program:
            for mode in (bpf.XDP_DRV_MODE, bpf.XDP_SKB_MODE):
                try:
                    netns.call(s.bed.name, attach, program, s.inside, mode)
                except SystemCallError:
                    continue
                raise BrokenError("the kernel attached another program beside the capture's")
        sent = s.send(1_000)
        ended = child.end()
    outcome = s.told("", ended, True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    outcome.said = second
    outcome.result = "goes on; the later one is refused"
    return outcome


def other_program_first(s: Setting) -> Outcome:
    """another XDP program has the interface already"""
    with harmless() as program:
        link = netns.call(s.bed.name, attach, program, s.inside)
        try:
            said = refused(s)
            with s.capture("--engine", "packet") as child:
                child.wait_for("has an XDP program", 60)
                sent = s.send(1_000)
                ended = child.end()
            outcome = s.told("", ended, True)
            require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
        finally:
            link.close()
    with s.capture("--engine", "xdp") as child:
        sent += s.send(1_000)
        ended = child.end()
    last = s.told("", ended, True)
    outcome.received, outcome.delivered = outcome.received + last.received, outcome.delivered + last.delivered
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    outcome.result = "AF_XDP is refused until the other is gone; `--engine packet` captures behind it"
    outcome.said = said
    return outcome


@contextmanager
def harmless() -> Iterator[bpf.Program]:
    """An XDP program that passes every packet on."""
    code: list[asm.Insn] = [("mov_imm", 0, 0, 0, bpf.XDP_PASS), ("exit", 0, 0, 0, 0)]
    program = bpf.Program(asm.assemble(code))
    try:
        yield program
    finally:
        program.close()


def attach(program: bpf.Program, interface: str, mode: int = bpf.XDP_DRV_MODE) -> bpf.Link:
    return program.attach(netlink.index_of(interface), mode)


def refused(s: Setting) -> str:
    """The line with which a capture is refused."""
    command = [*common.WIRECAP, "capture", "--netns", s.bed.name, "-i", s.inside, "-c", "1", "--engine", "xdp"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    require(done.returncode == 2, f"it was not refused: {done.stderr}")
    require(len(done.stderr.splitlines()) == 1, f"not one line: {done.stderr}")
    return done.stderr.strip().removeprefix("wirecap: ")


# the machine


def memory_limit(s: Setting) -> Outcome:
    """the memory cgroup's limit is less than the pool"""
    first = Path("/sys/fs/cgroup/memory")
    parent, name = (first, "memory.limit_in_bytes") if first.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = parent / f"wirecap-{os.getpid()}"
    try:
        group.mkdir()
        (group / name).write_text(str(200 << 20))
    except OSError as error:
        raise ImpossibleError(f"no memory cgroup: {error.strerror}") from None
    try:
        script = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        command = [*common.WIRECAP, "capture", "--netns", s.bed.name, "-i", s.inside, "-R", "400", "-c", "1"]
        done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=60,
                              check=False)  # fmt: skip
    finally:
        wait(lambda: not (group / "cgroup.procs").read_text().strip(), "an empty cgroup")
        group.rmdir()
    require(done.returncode == 2 and len(done.stderr.splitlines()) == 1, f"{done.returncode}: {done.stderr}")
    return Outcome("", "refused before it starts", said=done.stderr.strip().removeprefix("wirecap: "))


def stopped(s: Setting) -> Outcome:
    """SIGSTOP, then SIGCONT"""
    with s.capture() as child:
        s.send(1_000)
        os.kill(child.pid, signal.SIGSTOP)
        s.send(100_000)
        time.sleep(s.length.stopped_s)
        os.kill(child.pid, signal.SIGCONT)
        time.sleep(0.3)
        s.send(1_000)
        ended = child.end()
    outcome = s.told("", ended, True, {"capture_late", "pool_exhausted"})
    require(outcome.delivered >= 2_000, f"{outcome.delivered} delivered")
    return outcome


def signal_storm(s: Setting) -> Outcome:
    """a storm of SIGUSR1 and SIGUSR2, with traffic"""
    with s.capture("-w", str(s.folder / "out.pcapng")) as child, LiveFrames(s.outside, synthetic.udp(60)) as sender:
        # no more than are attached: a capture thread that the machine leaves without a CPU loses none of them
        sending = threading.Thread(target=sender.send_paced, args=(15_000, 15_000))
        sending.start()
        for number in range(2_000):
            os.kill(child.pid, signal.SIGUSR1 if number % 2 else signal.SIGUSR2)
        sending.join()
        ended = child.end(timeout_s=60)
    return s.told("", ended, True)


def log_storm(s: Setting) -> Outcome:
    """nobody reads standard error, and there is much on it"""
    command = [*common.WIRECAP, "capture", "--netns", s.bed.name, "-i", s.inside, "-w", str(s.folder / "out.pcapng")]
    child = subprocess.Popen([*command, "--summary-json", str(s.summary)], stderr=subprocess.PIPE)
    assert child.stderr
    try:
        while b"capturing on" not in child.stderr.readline():
            require(child.poll() is None, "it does not start")
        for _ in range(300):
            os.kill(child.pid, signal.SIGUSR1)  # each prints some lines; 64 KiB fit the pipe
            time.sleep(0.001)
        sent = s.send(15_000, rate=30_000)
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=60)[1]
    finally:
        child.kill()
        child.wait()
    outcome = s.told("", process.Ended(child.returncode, rest.decode(), 0, 0), True)
    require(outcome.delivered == sent, f"{sent} sent, {outcome.delivered} delivered")
    return outcome


def overload(s: Setting) -> Outcome:
    """twice what the handler can take"""
    rate, seconds = 20_000, s.length.overload_s
    with s.capture("-R", "20", "--handler", f"pkt_handler:rate={rate}") as child:
        s.send(round(2 * rate * seconds), rate=2 * rate)
        time.sleep(1)  # the pool empties within this second
        recovered = s.send(1_000)
        ended = child.end()
    outcome = s.told("", ended, True, {"pool_exhausted"})
    require(recovered == 1_000, "it does not recover")
    least = 0.8 * rate * seconds if seconds > 60 else 20 * 256  # what the pool holds, where a pause is a large share
    require(outcome.delivered >= least, f"only {outcome.delivered} delivered")
    return outcome


FAULTS: dict[str, Callable[[Setting], Outcome]] = {
    each.__name__: each
    for each in (
        *faults_beside.FAULTS,
        handler_crash, handler_crash_kept, kills, disk_full, disk_error, disk_slow, closed_pipe, down_and_up, deleted,
        recreated, queue_count, queues_added, mtu, other_program, other_program_first, memory_limit, stopped,
        signal_storm, log_storm, overload,
    )
}  # fmt: skip
ALL = ",".join(FAULTS)


def run(name: str, length: Length = SHORT, seed: int = 0) -> Outcome:
    """One fault on a testbed of its own.  Raises ImpossibleError or BrokenError."""
    bed_name = f"{common.PREFIX}{os.getpid()}f"
    folder = Path(tempfile.mkdtemp(prefix="wirecap-faults-"))
    try:
        setting = Setting(testbed.up(bed_name, queues=2), folder, length, random.Random(seed))
        outcome = FAULTS[name](setting)
    finally:
        testbed.down(bed_name)
        shutil.rmtree(folder, ignore_errors=True)
    outcome.fault = (FAULTS[name].__doc__ or name).strip()
    if name == "overload":
        outcome.fault += f", for {length.overload_s:g} s"
    if name == "stopped":
        outcome.fault += f" after {length.stopped_s:g} s"
    outcome.said = outcome.said.replace(f"{bed_name}0", "eth1").replace(str(folder), "")
    return outcome


def written(outcomes: list[Outcome]) -> str:
    """The table for docs/reliability.md."""
    heads = ("fault", "the capture", "received", "delivered", "lost, by name", "the reason that it gives")
    rows = []
    for each in outcomes:
        lost = ", ".join(f"{count:,} `{name}`" for name, count in each.lost.items()) or "-"
        rows.append((each.fault, each.result, each.received, each.delivered, lost, each.said and f"`{each.said}`"))
    return doc_blocks.table(heads, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=ALL, help="names of faults, with commas between them")
    parser.add_argument("--short", action="store_true", help="as in the tests: few kills, short times")
    parser.add_argument("--kills", type=int, default=Length.kills)
    parser.add_argument("--overload", type=float, default=Length.overload_s, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random moments")
    parser.add_argument("--json", type=Path, help="write the outcomes there")
    parser.add_argument("--write", action="store_true", help="put the table, or its rows, into docs/reliability.md")
    args = parser.parse_args()
    length = SHORT if args.short else replace(Length(), kills=args.kills, overload_s=args.overload)
    outcomes, failed = [], 0
    print(f"seed {args.seed}", file=sys.stderr)
    for name in args.only.split(","):
        begun = time.monotonic()
        try:
            outcomes.append(run(name, length, args.seed))
        except ImpossibleError as reason:
            outcomes.append(Outcome((FAULTS[name].__doc__ or name).strip(), f"not tried: {reason}"))
        except (BrokenError, WirecapError) as error:
            failed += 1
            outcomes.append(Outcome((FAULTS[name].__doc__ or name).strip(), f"FAILED: {error}"))
        print(f"{time.monotonic() - begun:6.1f} s  {outcomes[-1]}", file=sys.stderr)
    table = Table(title="faults", title_justify="left")
    for heading in ("fault", "the capture", "received", "delivered", "lost"):
        table.add_column(heading)
    for each in outcomes:
        table.add_row(each.fault, each.result, str(each.received), str(each.delivered), str(each.lost))
    common.console.print(table)
    if args.json:
        args.json.write_text(json.dumps([asdict(each) for each in outcomes]))
    if args.write:
        put = doc_blocks.write if args.only == ALL else doc_blocks.write_rows
        put("reliability.md", "faults", written(outcomes))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
