from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import capture_bytes as cb
import pytest

from wirecap.config.capture import WriteConfig
from wirecap.errors import UsageError
from wirecap.files.rotation import Action, Rotation, compression_of, format_of, queue_path

SECOND = 10**9
T0 = 1_700_000_000 * SECOND + 250_000_000  # 2023-11-14 22:13:20.25 UTC


@pytest.fixture(autouse=True)
def utc() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TZ", "UTC")
        time.tzset()
        yield environment
    time.tzset()


def write(config: WriteConfig, records: list[tuple[int, int]], start: int = T0) -> tuple[dict[str, list[int]], bool]:
    """Play a writer of pcap: records of (time ns, bytes) -> ({file: [bytes, packets]}, whether it was stopped)."""
    rotation = Rotation(config, start)
    files = {rotation.path: [24, 0]}
    for now, length in records:
        while (action := rotation.decide(*files[rotation.path], now, True)) is Action.NEXT_FILE:
            _begin(rotation, files, now)
        if action is Action.STOP:
            return files, True
        current = files[rotation.path]
        assert current[0] < rotation.full_bytes
        assert current[1] < rotation.full_packets
        current[0] += length
        current[1] += 1
        while (action := rotation.decide(*files[rotation.path], now, False)) is Action.NEXT_FILE:
            _begin(rotation, files, now)
        if action is Action.STOP:
            return files, True
    return files, False


def _begin(rotation: Rotation, files: dict[str, list[int]], now: int) -> None:
    removed = rotation.next_file(now)
    files[rotation.path] = [24, 0]
    if removed:
        del files[removed]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@pytest.fixture(scope="module")
def records(mixed_trace: Path) -> list[tuple[int, int]]:
    """The trace's packets as pcap records."""
    return [(T0, 16 + len(packet.data)) for packet in cb.read(mixed_trace, limit=256)]


@pytest.mark.parametrize(
    "options",
    [
        "-C 2",
        "-C 2 -W 4",
        "-C 1 -W 12",
        "-C 5 -W 1",
        "-C 3 -W 100000",
        "-C 100",
        "-C 3 -G 1000",
        "-C 3 -G 1000 -W 3",
        "-G 1000",
        "-G 1000 -W 2",
    ],
)
def test_files_are_tcpdumps(mixed_trace: Path, records: list[tuple[int, int]], tmp_path: Path, options: str) -> None:
    """The same names with the same sizes as tcpdump makes of the trace."""
    path = "out_%Y.pcap" if "-G" in options else "out.pcap"
    subprocess.run(
        [tool("tcpdump"), "-Z", "root", "-r", str(mixed_trace), "-w", path, *options.split()],
        cwd=tmp_path, capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    given = dict(zip(options.split()[::2], map(int, options.split()[1::2]), strict=True))
    config = WriteConfig(
        path=path,
        split_bytes=given["-C"] * 10**6 if "-C" in given else None,
        split_ns=given["-G"] * SECOND if "-G" in given else None,
        split_files=given.get("-W"),
    )
    ours, _ = write(config, [(time.time_ns(), length) for _, length in records], time.time_ns())
    theirs = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert {name: size for name, (size, _) in ours.items()} == theirs


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ("-b packets:20000", {"ring_packets": 20_000}),
        ("-b packets:34017", {"ring_packets": 34_017}),
        ("-b filesize:5000", {"ring_bytes": 5_000_000}),
        ("-b filesize:5000 -b files:3", {"ring_bytes": 5_000_000, "ring_files": 3}),
        ("-b packets:10000 -b files:3 -a files:5", {"ring_packets": 10_000, "ring_files": 3, "stop_files": 5}),
        ("-b packets:20000 -b files:2 -a filesize:2000", {"ring_packets": 20_000, "ring_files": 2,
                                                          "stop_bytes": 2_000_000}),
        ("-b filesize:1000 -b files:1", {"ring_bytes": 1_000_000, "ring_files": 1}),
        ("-b duration:1000", {"ring_ns": 1000 * SECOND}),
        ("-a filesize:1000", {"stop_bytes": 1_000_000}),
    ],
)  # fmt: skip
def test_files_are_dumpcaps(
    mixed_trace: Path, records: list[tuple[int, int]], tmp_path: Path, options: str, config: dict[str, int]
) -> None:
    """The same names, but for the clock, with the same sizes as dumpcap makes of the trace from a pipe."""
    with mixed_trace.open("rb") as trace:
        subprocess.run(
            [tool("dumpcap"), "-q", "-P", "-i", "-", "-w", "out.pcap", *options.split()],
            cwd=tmp_path, stdin=trace, capture_output=True, check=True, timeout=60,
        )  # fmt: skip
    ours, _ = write(WriteConfig(path="out.pcap", **config), records)  # type: ignore[arg-type]
    clock = re.compile(r"_\d{14}")
    theirs = {clock.sub("_T", file.name): file.stat().st_size for file in tmp_path.iterdir()}
    assert {clock.sub("_T", name): size for name, (size, _) in ours.items()} == theirs


def test_tcpdump_rotates_by_whole_seconds() -> None:
    """-G counts the clock's seconds, as the names do, and begins a file at its time, packets or not."""
    rotation = Rotation(WriteConfig(path="a_%H%M%S.pcap", split_ns=10 * SECOND), T0)
    assert rotation.path == "a_221320.pcap"
    assert rotation.split_end_ns == T0 - T0 % SECOND + 10 * SECOND
    assert rotation.decide(24, 0, T0 + 9 * SECOND, True) is Action.GO_ON
    early = T0 + 9_750_000_000
    assert rotation.deadline_ns == rotation.split_end_ns
    assert rotation.decide(24, 0, early, False) is Action.NEXT_FILE
    assert rotation.decide(24, 0, early, True) is Action.NEXT_FILE
    assert rotation.next_file(early) is None
    assert rotation.path == "a_221330.pcap"
    assert rotation.deadline_ns == T0 - T0 % SECOND + 20 * SECOND


@pytest.mark.parametrize("name", ["a.pcap", "a_%H.pcap"])
def test_a_name_that_stays_the_same(name: str) -> None:
    """A file that the next one would overwrite is ended by a packet only: a quiet line must not empty it."""
    rotation = Rotation(WriteConfig(path=name, split_ns=10 * SECOND), T0)
    assert rotation.decide(24, 9, T0 + 10 * SECOND, False) is Action.GO_ON
    assert rotation.decide(24, 9, T0 + 10 * SECOND, True) is Action.NEXT_FILE


def test_tcpdump_ends_after_the_last_file_of_g() -> None:
    """-G with -W ends the capture when the last file's time is over, packets or not."""
    rotation = Rotation(WriteConfig(path="a_%S", split_ns=10 * SECOND, split_files=2), T0)
    assert rotation.decide(24, 5, T0 + 10 * SECOND, True) is Action.NEXT_FILE
    rotation.next_file(T0 + 10 * SECOND)
    assert rotation.deadline_ns == T0 - T0 % SECOND + 20 * SECOND
    assert rotation.decide(24, 5, T0 + 19 * SECOND, False) is Action.GO_ON
    assert rotation.decide(24, 5, T0 + 20 * SECOND, False) is Action.STOP


def test_tcpdump_numbers_begin_again_with_each_time() -> None:
    """With -C and -G the number counts the files of one time."""
    config = WriteConfig(path="a_%S.pcap", split_ns=10 * SECOND, split_bytes=1000)
    rotation, names = Rotation(config, T0), []
    for after in (1, 2, 11, 12):
        assert rotation.decide(1001, 9, T0 + after * SECOND, True) is Action.NEXT_FILE
        rotation.next_file(T0 + after * SECOND)
        names.append(rotation.path)
    assert names == ["a_20.pcap1", "a_20.pcap2", "a_31.pcap", "a_31.pcap1"]


def test_fractions_of_a_second() -> None:
    """-G 500ms, which tcpdump does not have, counts nanoseconds."""
    rotation = Rotation(WriteConfig(path="a_%S", split_ns=SECOND // 2), T0)
    assert rotation.decide(24, 1, T0 + SECOND // 2 - 1, True) is Action.GO_ON
    assert rotation.decide(24, 1, T0 + SECOND // 2, True) is Action.NEXT_FILE


def test_dumpcap_intervals_are_multiples_of_the_clock() -> None:
    """interval:60 changes on the minute, packets or not; duration:60 after a minute."""
    rotation = Rotation(WriteConfig(path="a.pcapng", ring_interval_ns=60 * SECOND), T0)
    minute = (T0 // SECOND // 60 + 1) * 60 * SECOND
    assert rotation.deadline_ns == minute
    assert rotation.decide(24, 0, minute - 1, True) is Action.GO_ON
    assert rotation.decide(24, 0, minute, False) is Action.NEXT_FILE
    rotation.next_file(minute + 5)
    assert rotation.deadline_ns == minute + 60 * SECOND
    assert rotation.path == "a_00002_20231114221400.pcapng"
    rotation = Rotation(WriteConfig(path="a.pcapng", ring_ns=60 * SECOND), T0)
    assert rotation.deadline_ns == T0 + 60 * SECOND
    assert rotation.decide(24, 0, T0 + 60 * SECOND, False) is Action.NEXT_FILE


def test_a_clock_that_is_set_back_holds_no_file_open() -> None:
    """The file's time begins anew with -b; with -G it goes on to its moment, since its names would come again."""
    hour = 3600 * SECOND
    rotation = Rotation(WriteConfig(path="a.pcapng", ring_ns=60 * SECOND, ring_interval_ns=300 * SECOND), T0)
    assert rotation.decide(24, 0, T0 - hour, True) is Action.GO_ON
    assert rotation.deadline_ns == T0 - hour + 60 * SECOND
    assert rotation.decide(24, 0, T0 - hour + 60 * SECOND, True) is Action.NEXT_FILE
    rotation = Rotation(WriteConfig(path="a_%H%M%S.pcapng", split_ns=60 * SECOND), T0)
    assert rotation.decide(24, 0, T0 - hour + 60 * SECOND, True) is Action.GO_ON


def test_dumpcap_stops_after_its_files_by_time() -> None:
    """-a files:2 with -b duration: ends the capture at the end of the second file's time."""
    rotation = Rotation(WriteConfig(path="a", ring_ns=SECOND, stop_files=2), T0)
    rotation.next_file(T0 + SECOND)
    assert rotation.decide(24, 0, T0 + 2 * SECOND, False) is Action.STOP


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("out.pcapng", "out_00001_20231114221320.pcapng"),
        ("out", "out_00001_20231114221320"),
        ("a.b/out", "a.b/out_00001_20231114221320"),
        ("d/out.x.pcap", "d/out.x_00001_20231114221320.pcap"),
        ("out.pcapng.gz", "out_00001_20231114221320.pcapng.gz"),
        ("out.zst", "out_00001_20231114221320.zst"),
    ],
)
def test_dumpcap_names(path: str, name: str) -> None:
    """Number and time stand before the suffix, to which a compression's belongs."""
    assert Rotation(WriteConfig(path=path, ring_packets=1), T0).path == name
    swapped = Rotation(WriteConfig(path=path, ring_packets=1, ring_name_time_first=True), T0).path
    assert swapped == name.replace("00001_20231114221320", "20231114221320_00001")


def test_numbers_go_round() -> None:
    """After 99999 dumpcap's number is 00000, and the ring still removes its oldest file."""
    rotation = Rotation(WriteConfig(path="a", ring_packets=1, ring_files=2), T0)
    for _ in range(99_998):
        rotation.next_file(T0)
    assert rotation.path.startswith("a_99999_")
    assert rotation.next_file(T0) == "a_99998_20231114221320"
    assert rotation.path.startswith("a_00000_")


def test_an_empty_name_is_refused(utc: pytest.MonkeyPatch) -> None:
    """A time format that gives nothing, here a time zone without a name, is a usage error."""
    utc.setenv("TZ", "<>0")
    time.tzset()
    with pytest.raises(UsageError, match="empty name"):
        Rotation(WriteConfig(path="%Z", split_ns=SECOND), T0)


@pytest.mark.parametrize(
    ("path", "form", "compression"),
    [
        ("a.pcap", "pcap", ""),
        ("a.CAP", "pcap", ""),
        ("a.dmp", "pcap", ""),
        ("a.pcap.gz", "pcap", ".gz"),
        ("a.pcapng", "pcapng", ""),
        ("a.pcapng.zst", "pcapng", ".zst"),
        ("a.gz", "pcapng", ".gz"),
        ("a", "pcapng", ""),
        ("-", "pcapng", ""),
        ("pcap", "pcapng", ""),
    ],
)
def test_the_name_says_the_form(path: str, form: str, compression: str) -> None:
    """.pcap, .cap and .dmp are pcap, all else pcapng; .gz and .zst compress."""
    assert (format_of(path), compression_of(path)) == (form, compression)


@pytest.mark.parametrize(("path", "hint"), [("a.parquet", "wirecap convert"), ("a.parquet.GZ", "FILE.parquet")])
def test_packets_are_no_parquet(path: str, hint: str) -> None:
    """A name of Parquet never becomes a capture file, compressed or not."""
    with pytest.raises(UsageError) as refused:
        format_of(path)
    assert hint in refused.value.hint


def test_names_of_queues() -> None:
    """A file for each queue is named after its interface and number."""
    assert queue_path("d.x/out.pcapng.gz", "eth1", 3) == "d.x/out_eth1_3.pcapng.gz"
    assert queue_path("out", "eth1", 0) == "out_eth1_0"


def test_a_next_file_that_cannot_be_made(tmp_path: Path) -> None:
    """The first file can be written, the second one's name is a folder's: a run that failed, status 1, one line, and
    the first file is whole."""
    packets = [cb.Packet(bytes(1000), 1000, number * 1000) for number in range(300)]
    (tmp_path / "in.pcap").write_bytes(cb.pcap(packets))
    (tmp_path / "out.pcap1").mkdir()
    command = ["capture", "-r", str(tmp_path / "in.pcap"), "-w", str(tmp_path / "out.pcap"), "-C", "100k"]
    ended = subprocess.run([sys.executable, "-m", "wirecap", *command], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "out.pcap1: Is a directory" in ended.stderr
    assert "101 packets read" in ended.stderr
    assert (tmp_path / "out.pcap").read_bytes() == cb.pcap(packets[:101])
