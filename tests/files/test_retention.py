"""Capture files within bounds: removed in time, the oldest first, and nothing else."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mixed_trace
from rig import until
from wirecap.config.bounds import Amount, Bounds
from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError
from wirecap.files import finished, retention
from wirecap.files.finished import FinishedCommands
from wirecap.files.retention import Retention, names_of
from wirecap.files.rotation import Rotation

SECOND = 10**9
T0 = 1_700_000_000 * SECOND


@pytest.fixture(autouse=True, scope="module")
def single_bytes() -> Iterator[None]:
    """A file system that gives files no more than they have bytes (test_disk.py has a real one)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retention, "_in_blocks", lambda self, size: size)
        patch.setattr(retention, "taken_bytes", lambda status: status.st_size)
        yield


def limit(size: int) -> Bounds:
    return Bounds(limit=Amount(str(size), size))


def taken(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir())


def taken_meanwhile(folder: Path) -> int:
    """The same while only new files grow and only old ones go: never more than was taken at one moment."""
    sizes = 0
    for path in sorted(folder.iterdir(), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size
    return sizes


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ring(folder: Path, **bounds: object) -> WriteConfig:
    return WriteConfig(path=str(folder / "out.pcap"), format="pcap", ring_bytes=1000, bounds=Bounds(**bounds))  # type: ignore[arg-type]


FILES = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=5), min_size=1, max_size=20)


@given(FILES, st.integers(4000, 6000))
def test_the_limit_holds_at_every_moment(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]], most: int
) -> None:
    """Whatever the files' sizes, no write is let through before there is room, and only whole old files go."""
    folder = tmp_path_factory.mktemp("bounded")
    kept = Retention(limit(most), ring(folder), [str(folder / "out.pcap")])
    made = []
    for number, parts in enumerate(files):
        path = folder / f"out_{number:05}_20231114221320.pcap"
        made.append(path.name)
        space, size = kept.begin(str(path)), 0
        with path.open("wb") as file:
            for part in parts:
                size += part
                space.grow(size)
                file.write(bytes(part))
                file.flush()
                assert taken(folder) <= most
        kept.ending(str(path))
        space.end(size)
    kept.close()
    left = names(folder)
    assert made[-1] in left
    assert left == set(made[len(made) - len(left) :])  # the newest
    assert kept.removed == len(made) - len(left)
    if kept.removed:  # one more would have been too much
        oldest = files[len(made) - len(left) - 1]
        assert taken(folder) + sum(oldest) > most - max(map(sum, files))


def test_files_of_an_earlier_run_count_and_others_do_not(tmp_path: Path) -> None:
    """What has the name of such a file is removed, oldest first, with its compressed form; nothing else is."""
    old = [f"out_{number:05}_20231114221320.pcap" for number in range(4)]
    for age, name in enumerate(reversed(old)):
        (tmp_path / name).write_bytes(bytes(1000))
        os.utime(tmp_path / name, (T0 // SECOND - age, T0 // SECOND - age))
    (tmp_path / (old[0] + ".zst")).write_bytes(bytes(500))  # newer, but what counts is when its packets came
    foreign = ["out.pcap", "out_1_20231114221320.pcap", "out_00001_20231114221320.pcapng", "notes", old[1] + ".bak"]
    for name in foreign:
        (tmp_path / name).write_bytes(bytes(5000))
    kept = Retention(limit(4000), ring(tmp_path), [str(tmp_path / "out.pcap")])
    space = kept.begin(str(tmp_path / "out_00001_20231114221400.pcap"))
    space.grow(1)
    assert names(tmp_path) == {*foreign, *old[1:]}
    space.grow(1001)
    assert names(tmp_path) == {*foreign, *old[2:]}
    assert kept.notes == [f"{tmp_path}: 2 files (2.44 KiB) removed to stay within bounds"]
    kept.close()


def test_the_folder_in_which_a_capture_runs_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For files without a folder the lines begin with what happened, not with a dot."""
    monkeypatch.chdir(tmp_path)
    Path("out_00001_20231114221320.pcap").write_bytes(bytes(1000))
    kept = Retention(limit(4000), ring(Path()), ["out.pcap"])
    kept.begin("out_00002_20231114221400.pcap").grow(5000)
    kept.close()
    removed, exceeded = kept.notes
    assert removed == "1 file (1000 bytes) removed to stay within bounds"
    assert exceeded.startswith("the files exceed --limit by ")


def test_what_a_command_makes_of_a_file_belongs_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was replaced by its compressed form counts with that one's size, and goes in its turn."""
    monkeypatch.setattr(retention, "SCAN_S", 0.0)
    kept = Retention(limit(2000), ring(tmp_path), [str(tmp_path / "out.pcap")])
    first, second = (tmp_path / f"out_{number:05}_20231114221320.pcap" for number in (1, 2))
    space = kept.begin(str(first))
    space.grow(1000)
    first.write_bytes(bytes(1000))
    space.end(1000)
    first.rename(first.with_suffix(".pcap.gz"))
    os.truncate(first.with_suffix(".pcap.gz"), 400)
    space = kept.begin(str(second))
    space.grow(1600)
    assert names(tmp_path) == {first.name + ".gz"}
    space.grow(1601)
    assert names(tmp_path) == set()
    kept.close()


def test_an_open_file_is_never_removed(tmp_path: Path) -> None:
    """Where nothing but files in use is left, one line says so and the capture goes on."""
    kept = Retention(limit(100), ring(tmp_path), [str(tmp_path / "out.pcap")])
    path = tmp_path / "out_00001_20231114221320.pcap"
    space = kept.begin(str(path))
    path.write_bytes(bytes(500))
    for size in (500, 600):
        space.grow(size)
    assert path.exists()
    assert kept.notes == [
        f"{tmp_path}: the files exceed --limit by 400 bytes: there is no older file that could be removed"
    ]
    kept.close()


def test_a_file_that_is_on_its_way_to_the_disk_is_waited_for(tmp_path: Path) -> None:
    """Its successor grows once it is closed, and can be removed."""
    kept = Retention(limit(1000), ring(tmp_path), [str(tmp_path / "out.pcap")])
    first, second = (tmp_path / f"out_{number:05}_20231114221320.pcap" for number in (1, 2))
    ending = kept.begin(str(first))
    ending.grow(900)
    first.write_bytes(bytes(900))
    kept.ending(str(first))
    space = kept.begin(str(second))
    grown = threading.Event()
    thread = threading.Thread(target=lambda: (space.grow(500), grown.set()))
    thread.start()
    assert not grown.wait(0.05)
    ending.end(900)
    assert grown.wait(60)
    thread.join()
    assert not first.exists()
    kept.close()


def test_a_file_that_cannot_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line names it, and the next oldest goes."""
    stuck, other = (tmp_path / f"out_{number:05}_20231114221320.pcap" for number in (1, 2))
    for age, path in enumerate((other, stuck)):
        path.write_bytes(bytes(1000))
        os.utime(path, (T0 // SECOND - age, T0 // SECOND - age))
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == stuck:
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    kept = Retention(limit(2000), ring(tmp_path), [str(tmp_path / "out.pcap")])
    space = kept.begin(str(tmp_path / "out_00003_20231114221320.pcap"))
    space.grow(1000)
    assert names(tmp_path) == {stuck.name}
    assert f"{stuck}: cannot be removed: Operation not permitted" in kept.notes
    kept.close()


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """The wall clock and the one that nobody sets, in s."""
    now = {"wall": T0 / SECOND, "uptime": 1000.0}
    monkeypatch.setattr(retention, "_uptime_s", lambda: now["uptime"])
    monkeypatch.setattr(retention.time, "time", lambda: now["wall"])
    monkeypatch.setattr(Retention, "_watch", lambda self: None)
    return now


def test_old_files_go_and_a_clock_that_is_set_removes_nothing(tmp_path: Path, clocks: dict[str, float]) -> None:
    """Age counts from a file's last packet: by its time stamp if an earlier run wrote it, else by the time passed."""
    before = tmp_path / "out_00009_20231114221320.pcap"
    before.write_bytes(bytes(10))
    os.utime(before, (clocks["wall"] - 40, clocks["wall"] - 40))
    kept = Retention(Bounds(max_age_ns=60 * SECOND), ring(tmp_path), [str(tmp_path / "out.pcap")])
    first = tmp_path / "out_00001_20231114221400.pcap"
    space = kept.begin(str(first))
    space.grow(10)
    first.write_bytes(bytes(10))
    os.utime(first, (clocks["wall"], clocks["wall"]))
    space.end(10)
    clocks["wall"] += 365 * 86400
    clocks["uptime"] += 10
    kept.begin(str(tmp_path / "out_00002_20231114221500.pcap")).grow(5)
    assert names(tmp_path) == {before.name, first.name}
    clocks["wall"] -= 730 * 86400
    clocks["uptime"] += 10.5
    kept.begin(str(tmp_path / "out_00003_20231114221500.pcap")).grow(5)
    assert names(tmp_path) == {first.name}
    clocks["uptime"] += 40
    kept.begin(str(tmp_path / "out_00004_20231114221500.pcap")).grow(5)
    assert names(tmp_path) == set()
    kept.close()


def test_files_make_room_on_a_disk_that_others_fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many go as --min-free asks for, and no more, although a reader may keep the space of a removed file."""
    monkeypatch.setattr(Retention, "_watch", lambda self: None)
    monkeypatch.setattr(retention, "free_bytes", lambda folder: 2500)
    for number in range(9):
        path = tmp_path / f"out_{number:05}_20231114221320.pcap"
        path.write_bytes(bytes(1000))
        os.utime(path, (T0 // SECOND + number, T0 // SECOND + number))
    kept = Retention(Bounds(min_free=Amount("4000", 4000)), ring(tmp_path), [str(tmp_path / "out.pcap")])
    space = kept.begin(str(tmp_path / "out_00010_20231114221320.pcap"))
    space.grow(100)
    assert kept.removed == 2
    kept.close()


def test_the_newest_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each output, also when it is complete; one that has a successor goes."""
    monkeypatch.setattr(Retention, "_watch", lambda self: None)
    monkeypatch.setattr(retention, "free_bytes", lambda folder: 0)
    outputs = [str(tmp_path / "a.pcap"), str(tmp_path / "b.pcap")]
    kept = Retention(Bounds(min_free=Amount("4000", 4000)), ring(tmp_path), outputs)
    made = [tmp_path / f"{name}_20231114221320.pcap" for name in ("a_00001", "b_00001", "b_00002")]
    for path in made:
        space = kept.begin(str(path))
        path.write_bytes(bytes(100))
        space.grow(100)
        kept.ending(str(path))
        space.end(100)
    kept.begin(str(tmp_path / "b_00003_20231114221320.pcap")).grow(1)
    assert names(tmp_path) == {made[0].name}
    kept.close()


def test_a_disk_that_cannot_be_that_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is removed; what earlier files take counts as free, other files do not."""
    monkeypatch.setattr(retention, "free_bytes", lambda folder: 2500)
    for name in ("out_00001_20231114221320.pcap", "out_00002_20231114221320.pcap.zst", "other.pcap"):
        (tmp_path / name).write_bytes(bytes(1000))
    paths = [str(tmp_path / "out.pcap")]
    retention.check_free(ring(tmp_path, min_free=Amount("4500", 4500)), paths)
    with pytest.raises(UsageError, match=r"--min-free 4501: .* has only 4.39 KiB free, earlier files"):
        retention.check_free(ring(tmp_path, min_free=Amount("4501", 4501)), paths)
    assert len(names(tmp_path)) == 3


NAMINGS = [
    ("a.pcapng", {"ring_bytes": 5000}),
    ("a.b.pcap.gz", {"ring_ns": SECOND, "ring_name_time_first": True}),
    ("a", {"ring_packets": 7}),
    ("a.pcap", {"split_bytes": 5000}),
    ("a.pcap", {"split_bytes": 5000, "split_files": 12}),
    ("a-%Y%m%d-%H%M%S.pcap", {"split_ns": SECOND}),
    ("%F_%T+%s-%j.pcap", {"split_ns": SECOND, "split_bytes": 5000}),
    ("%A %-d %b 100%%.pcap", {"split_ns": 86400 * SECOND}),
]


@pytest.mark.parametrize(("name", "how"), NAMINGS)
def test_every_name_of_a_rotation_is_known(name: str, how: dict[str, int]) -> None:
    """Of each way of naming files, with and without a compression's suffix; names beside them are not taken for it."""
    config = WriteConfig(path=f"/x/{name}", **how)  # type: ignore[arg-type]
    pattern = names_of(config, config.path)
    random_steps = random.Random(1)
    rotation, now = Rotation(config, T0), T0
    for _ in range(40):
        made = Path(rotation.path).name
        match = pattern.fullmatch(made + ".zst")
        assert match
        assert match[1] == made
        for other in (f"x{made}", f"{made}.bak", f"{made}~", f"{made}.zst.zst"):
            assert not pattern.fullmatch(other)
        now += random_steps.randrange(10**8, 3 * 86400 * SECOND)
        rotation.next_file(now)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bounds": limit(1000)}, "--limit: 1000 bytes is too little for useful files"),
        ({"bounds": limit(10**6), "split_bytes": 600_000}, "--limit: 977 KiB is too little for files of 586 KiB"),
        ({"bounds": limit(10**9), "split_ns": SECOND}, "--limit: one file of -G can fill the folder"),
    ],
)
def test_bounds_that_hold_less_than_a_file(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        retention.rotated(WriteConfig(path=str(tmp_path / "a.pcap"), format="pcap", **options), 1)  # type: ignore[arg-type]
    assert raised.value.message.startswith(message)


def wirecap(*arguments: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wirecap", "capture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload, no-any-return]


def test_a_command_keeps_the_limit_while_it_writes(tmp_path: Path) -> None:
    """A watcher never sees more than the limit, what is left are the newest packets, -z runs."""
    trace, folder = str(mixed_trace.write(tmp_path / "mixed.pcap")), tmp_path / "out"
    folder.mkdir()
    most, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.is_set():
            most = max(most, taken_meanwhile(folder))
            time.sleep(0.0002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = wirecap("-r", trace, "-w", f"{folder}/o.pcap", "--limit", "1MiB", "-z", f"{sys.executable} -c pass")
    finally:
        ended.set()
        watcher.join()
    most = max(most, taken(folder))  # also where the watcher had no CPU in time
    assert done.returncode == 0, done.stderr
    assert "removed to stay within bounds" in done.stderr
    assert "failed" not in done.stderr
    assert 500_000 < most <= 1 << 20
    whole = Path(trace).read_bytes()
    kept = b"".join(path.read_bytes()[24:] for path in sorted(folder.iterdir()))
    assert len(kept) > 500_000
    assert whole.endswith(kept)


def test_commands_for_files_have_no_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs as the folder's owner, without capabilities, and its failure is told at the end."""
    monkeypatch.setattr(finished, "PATIENCE_S", 120.0)
    folder, owner = tmp_path / "out", os.getuid()
    folder.mkdir()
    if owner == 0:
        owner = 12345
        os.chown(folder, owner, owner)
        for each in (tmp_path, *tmp_path.parents):
            if each.stat().st_uid == 0 and "pytest" in str(each):
                each.chmod(0o755)
    file = folder / "o.pcap"
    file.write_bytes(b"")
    commands = FinishedCommands("sh -c 'cat /proc/self/status >{}.status; exit 3'", 1, str(file))
    commands.add(str(file))
    commands.add(str(folder / "removed.pcap"))
    commands.close()
    status = dict(line.split(":", 1) for line in (folder / "o.pcap.status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Uid"].split() == [str(owner)] * 4
    if os.getuid() == 0:
        assert int(status["CapBnd"], 16) == 0
    assert commands.notes == [
        "--on-file: 1 of 2 files were removed before their command ran",
        f"--on-file: the command failed for 1 of 2 files ({file}: exit status 3)",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["-z", "nosuchprogram -x"],
            "--on-file: nosuchprogram: no such program (give a program on the PATH, or its path)",
        ),
        (["-z", "sh 'x"], '--on-file "sh \'x": No closing quotation (quote it as for a shell)'),
        (
            ["--min-free", "101%"],
            "--min-free: '101%' is not a whole percentage from 1 to 100 (write it as 80%, or as an amount: 10GiB)",
        ),
        (["--limit", "0"], "--limit: '0' leaves no room for a file (write it as 10GiB or 80%)"),
        (["--max-age", "0"], "--max-age: 0 ns is too little for useful files (give 1s or more)"),
    ],
)
def test_wrong_bounds_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    trace = tmp_path / "a.pcap"
    trace.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    done = wirecap("-r", str(trace), "-w", str(tmp_path / "o.pcap"), *options)
    assert (done.returncode, done.stderr) == (2, f"wirecap: {message}\n")


def test_a_file_that_another_capture_writes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture file that is locked is being written, compressed or not: it counts, and goes once it is free."""
    monkeypatch.setattr(retention, "SCAN_S", 0.0)
    old = [tmp_path / f"out_{number:05}_20231114221320.pcap{end}" for number, end in enumerate(["", ".gz", ""])]
    for age, path in enumerate(reversed(old)):
        path.write_bytes(bytes(1000))
        os.utime(path, (T0 // SECOND - age, T0 // SECOND - age))
    kept = Retention(limit(3000), ring(tmp_path), [str(tmp_path / "out.pcap")])
    new = tmp_path / "out_00009_20231114221320.pcap"
    space = kept.begin(str(new))
    with old[0].open("rb") as one, old[1].open("rb") as other:
        fcntl.flock(one, fcntl.LOCK_EX)
        fcntl.flock(other, fcntl.LOCK_EX)
        space.grow(1000)
        assert names(tmp_path) == {old[0].name, old[1].name}
    space.grow(1500)
    assert names(tmp_path) == {old[1].name}
    kept.close()


def test_a_folder_that_is_away_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says that the bounds were not kept; they are again when it is back."""
    monkeypatch.setattr(retention, "SCAN_S", 0.01)
    folder, away = tmp_path / "out", tmp_path / "away"
    folder.mkdir()
    bounds = Bounds(max_age_ns=SECOND, min_free=Amount("1", 1))
    kept = Retention(bounds, ring(folder), [str(folder / "out.pcap")])
    space = kept.begin(str(folder / "out_00002_20231114221320.pcap"))
    folder.rename(away)
    until(lambda: kept.notes)
    space.grow(1000)  # what is open can still be written
    old = away / "out_00001_20231114221320.pcap"
    old.write_bytes(bytes(10))
    os.utime(old, (T0 // SECOND, T0 // SECOND))
    away.rename(folder)
    until(lambda: not (folder / old.name).exists())
    kept.close()
    assert kept.notes == [
        f"{folder}: 1 file (10 bytes) removed to stay within bounds",
        f"{folder}: the bounds were not kept for a while: No such file or directory",
    ]


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(retention.os, "scandir", refuse)
    with pytest.raises(UsageError, match="Permission denied"):
        Retention(limit(2000), ring(tmp_path), [str(tmp_path / "out.pcap")])


RUNNER = [sys.executable, "-P", "-m", "wirecap.files.command_runner"]


def test_commands_take_no_module_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that everybody may write to may hold a json.py."""
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finished, "PATIENCE_S", 100.0)
    commands = FinishedCommands("true", 1, str(tmp_path / "o.pcap"))
    commands.add(str(tmp_path / "json.py"))
    commands.close()
    assert commands.notes == []


def test_commands_whose_capture_is_no_more_end_without_a_word(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*RUNNER, "1", str(tmp_path), "true"], stdin=subprocess.DEVNULL, stdout=write,
                          stderr=subprocess.PIPE, timeout=100, check=False)  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_commands_without_a_standard_error(tmp_path: Path) -> None:
    """What they print does not come between the runner and the capture."""
    (tmp_path / "o.pcap").write_bytes(b"")
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *RUNNER, "1", str(tmp_path), "sh -c 'echo printed; echo told >&2'"]
    done = subprocess.run(shell, input=f"{tmp_path}/o.pcap\0".encode(), stdout=subprocess.PIPE, timeout=100, check=True)
    assert done.stdout == b'[0, "", 0]'


@pytest.mark.parametrize("answer", ["", "printed", "3", "[1]"])
def test_an_answer_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """The process that runs the commands ended before it could tell what became of them."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{answer}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(finished.sys, "executable", str(program))
    monkeypatch.setattr(finished, "PATIENCE_S", 100.0)
    commands = FinishedCommands("true", 1, str(tmp_path / "o.pcap"))
    commands.close()
    assert commands.notes == ["--on-file: the process that ran the commands for 0 files ended early"]
