"""``wirecap find`` finds what a full scan finds, whatever the state of files and indexes."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from archive_rig import indexed, pcap, queries, records
from click.testing import CliRunner

from wirecap.cli.find import _percent
from wirecap.cli.find import command as find_command
from wirecap.cli.index import command as index_command
from wirecap.config.capture import WriteConfig
from wirecap.config.find import FindConfig, parse_when_ns
from wirecap.errors import UsageError, WirecapError
from wirecap.files import headers, index
from wirecap.files.index import VERSION, Builder, Index, StaleError, index_path
from wirecap.files.reader import open_capture
from wirecap.files.retention import names_of
from wirecap.files.writer import Sink
from wirecap.find.archive import files_of
from wirecap.find.find import check, find
from wirecap.kernels.file.write import PCAP_US, PCAPNG_NS
from wirecap.units import format_size

SMALL = 4096


@pytest.fixture
def archive(part, tmp_path) -> Path:
    """A folder with the same traffic as pcap and pcapng, plain and compressed, each file with an index."""
    folder = tmp_path / "archive"
    folder.mkdir()
    plain = folder / "a.pcap"
    shutil.copy(part, plain)
    indexed(plain, SMALL)
    written(folder / "b.pcapng", part)
    written(folder / "c.pcap.gz", part, ".gz")
    written(folder / "d.pcap.zst", part, ".zst", independent=True)
    written(folder / "e.pcap.zst", part, ".zst")
    return folder


def written(path: Path, source: Path, compression: str = "", independent: bool = False) -> None:
    """The packets of a pcap file, written as a capture writes them, with an index; some 64 KiB in each write."""
    layout, header = PCAP_US, source.read_bytes()[:24]
    if path.suffix == ".pcapng":
        layout, header = PCAPNG_NS, headers.section_header("test") + headers.interface_description("x", 0)
    sink = Sink(str(path), header, layout, None, True, compression, independent, indexed=True)
    waiting: list[bytes] = []
    data = source.read_bytes()
    for at, original, packet in records(source):
        record = data[at : at + 16 + len(packet)]
        if layout != PCAP_US:
            seconds, micros = (int.from_bytes(data[k : k + 4], "little") for k in (at, at + 4))
            record = enhanced(seconds * 10**9 + micros * 1000, packet, original)
        waiting.append(record)
        if sum(map(len, waiting[-200:])) > 1 << 16 or len(waiting) > 150:
            submit(sink, waiting)
            waiting = []
    submit(sink, waiting)
    sink.close()
    assert not sink.note


def enhanced(ns: int, packet: bytes, original: int) -> bytes:
    body = b"".join(n.to_bytes(4, "little") for n in (0, ns >> 32, ns & 0xFFFFFFFF, len(packet), original))
    body += packet + bytes(-len(packet) % 4)
    total = (len(body) + 12).to_bytes(4, "little")
    return (6).to_bytes(4, "little") + total + body + total


def submit(sink: Sink, made: list[bytes]) -> None:
    buffer = sink.acquire()
    data = b"".join(made)
    end = buffer.start + len(data)
    buffer.bytes[buffer.start : end] = memoryview(data)
    sink.submit(buffer, end, len(made), len(data))


def searched(
    paths: list[Path], out: Path, expression: str, indexes: bool = True, **more: int
) -> tuple[bytes, dict, list]:
    """What is found, the counters, and what was told."""
    told: list[str] = []
    config = FindConfig(
        paths=[str(path) for path in paths],
        filter=expression,
        output=str(out),
        indexes=indexes,
        format="pcapng",
        **more,
    )
    result = find(config, tell=told.append)
    check(result)
    return packets_of(out), result.as_dict(), told


def packets_of(path: Path) -> bytes:
    """The packet blocks of a file without what says who wrote it."""
    data = path.read_bytes()
    at, found = 0, []
    while at < len(data):
        kind, total = (int.from_bytes(data[k : k + 4], "little") for k in (at, at + 4))
        if kind == 6:
            found.append(data[at : at + total])
        at += total
    return b"".join(found)


def test_the_same_as_a_full_scan(archive, part, tmp_path):
    """For 8 random queries all formats give, in order of time, what they give without indexes, and not from all blocks;
    bench/find.py tells how much of an archive is read for one connection."""
    read = []
    for number, text in enumerate(queries(records(part), 16, seed=7)[8:]):
        mine, counts, told = searched([archive], tmp_path / "mine.pcapng", text)
        full, _, _ = searched([archive], tmp_path / "full.pcapng", text, indexes=False)
        assert mine == full, text
        assert counts["files"]["indexed"] == 5
        assert not told, number
        read.append(counts["bytes"]["read"] / counts["bytes"]["archive"])
    assert min(read) < 0.5


def test_a_time_range_reads_its_blocks(archive, part, tmp_path):
    """--since and --until choose blocks, and packets: from the one on, before the other."""
    data = part.read_bytes()
    fields = [struct.unpack_from("<II", data, at) for at, _, _ in records(part)]
    times = [seconds * 10**9 + micros * 1000 for seconds, micros in fields]
    since, until = sorted(times)[1000], sorted(times)[1100]
    mine, counts, _ = searched([archive / "a.pcap"], tmp_path / "mine.pcapng", "", since_ns=since, until_ns=until)
    assert counts["packets"] == sum(since <= time < until for time in times)
    assert counts["bytes"]["read"] < 0.2 * counts["bytes"]["archive"]
    full, _, _ = searched(
        [archive / "a.pcap"], tmp_path / "f.pcapng", "", indexes=False, since_ns=since, until_ns=until
    )
    assert mine == full


def test_a_damaged_index_is_never_believed(archive, part, tmp_path):
    """Wherever one byte of an index is changed, what is found stays the same."""
    path, dice = archive / "a.pcap", random.Random(8)
    index = Path(index_path(str(path)))
    good = index.read_bytes()
    text = "tcp port 443 or udp port 53 or net 10.0.0.0/24"
    full, _, _ = searched([path], tmp_path / "full.pcapng", text, indexes=False)
    for place in [0, len(good) - 1, len(good) - 12, len(good) - 60] + [dice.randrange(len(good)) for _ in range(20)]:
        index.write_bytes(good[:place] + bytes([good[place] ^ dice.randint(1, 255)]) + good[place + 1 :])
        mine, _, _ = searched([path], tmp_path / "mine.pcapng", text)
        assert mine == full, place


@pytest.mark.parametrize(("change", "said"), [
    (lambda good: good[: len(good) // 2], "not complete"),
    (lambda good: b"", "not complete"),
    (lambda good: b"something else", "damaged"),
])  # fmt: skip
def test_a_broken_index_is_told_of(archive, tmp_path, change, said):
    """One line says that the file is searched in full, and how to make a new index."""
    index = Path(index_path(str(archive / "a.pcap")))
    index.write_bytes(change(index.read_bytes()))
    _, counts, told = searched([archive / "a.pcap"], tmp_path / "out.pcapng", "tcp")
    assert len(told) == 1
    assert said in told[0]
    assert "searched in full" in told[0]
    assert counts["files"]["indexed"] == 0


def test_an_index_of_another_file_or_version(archive, part, tmp_path):
    """It is refused for a file of another size, other bytes or a later time, and in another version."""
    path = archive / "a.pcap"
    index = Path(index_path(str(path)))
    good, data = index.read_bytes(), path.read_bytes()

    def refused(said: str) -> None:
        with pytest.raises(StaleError, match=said):
            Index(str(path))

    path.write_bytes(data[:-50])
    refused("another file")
    path.write_bytes(data[:100] + b"x" + data[101:])
    refused("another file")
    path.write_bytes(data)
    made = index.stat().st_mtime_ns
    for other in (
        made + 10**9,
        made - 3600 * 10**9,
    ):  # as after a change in its middle, by a clock that is right or not
        os.utime(path, ns=(other, other))
        refused("changed since its index was made")
    indexed(path, SMALL)
    end = good.rindex(b'{"version"')
    other = good[end:-16].replace(f'"version":{VERSION}'.encode(), b'"version":99')
    tail = len(other).to_bytes(4, "little") + zlib.crc32(other).to_bytes(4, "little") + good[-8:]
    index.write_bytes(good[:end] + other + tail)
    refused("version 99")


def test_files_that_are_cut_or_still_written(archive, part, tmp_path):
    """The tail behind the last whole record is told of, and costs nothing that comes before."""
    path = archive / "a.pcap"
    path.write_bytes(path.read_bytes()[:-7])
    full, _, told = searched([path], tmp_path / "full.pcapng", "tcp", indexes=False)
    assert "truncated" in told[0]
    indexed(path, SMALL)
    mine, _, again = searched([path], tmp_path / "mine.pcapng", "tcp")
    assert mine == full
    assert again == told, "the offset is the one in the file"


def test_damage_in_the_middle(archive, part, tmp_path):
    """What is behind it is read by nobody; the index hides it from nobody."""
    path = archive / "a.pcap"
    data = bytearray(path.read_bytes())
    at, _, _ = records(part)[1200]
    data[at + 8 : at + 12] = b"\xff\xff\xff\x7f"
    path.write_bytes(data)
    indexed(path, SMALL)
    found = []
    for indexes in (True, False):
        config = FindConfig(paths=[str(path)], filter="udp", output=str(tmp_path / "out.pcapng"), indexes=indexes)
        result = find(config)
        with pytest.raises(WirecapError, match="not searched, or not to the end"):
            check(result)
        found.append((packets_of(tmp_path / "out.pcapng"), result.failures))
    assert found[0] == found[1]
    assert "invalid captured length" in found[0][1][0]


def test_blocks_that_are_no_packets_come_along(tmp_path, part):
    """Names and interfaces in the middle of a file are read with whatever is found, as a copy of all has them."""
    made = headers.section_header("test") + headers.interface_description("x", 0)
    names = (4).to_bytes(4, "little") + (16).to_bytes(4, "little") + bytes(4) + (16).to_bytes(4, "little")
    path = tmp_path / "named.pcapng"
    data = made
    for number, (_, original, packet) in enumerate(records(part)[:1200]):
        data += enhanced(10**18 + number, packet, original)
        if number % 400 == 399:
            data += names + headers.interface_description("y", 0)
    path.write_bytes(data)
    index = indexed(path, SMALL)
    assert len(index.always) == 3
    mine, _, _ = searched([path], tmp_path / "mine.pcapng", "udp port 53")
    full, _, _ = searched([path], tmp_path / "full.pcapng", "udp port 53", indexes=False)
    assert mine == full
    assert (tmp_path / "mine.pcapng").read_bytes() == (tmp_path / "full.pcapng").read_bytes()


def test_nothing_found_is_a_whole_file(archive, tmp_path):
    mine, counts, _ = searched([archive], tmp_path / "none.pcapng", "host 203.0.113.77 and port 1")
    assert mine == b""
    assert counts["packets"] == 0
    assert headers.is_section_header((tmp_path / "none.pcapng").read_bytes())


# The commands


def run(command: object, *arguments: object) -> tuple[str, str]:
    """Standard output and error; raises what the command raises."""
    result = CliRunner().invoke(command, [str(one) for one in arguments], catch_exceptions=True, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.stdout, result.stderr


def test_the_command_counts_lists_and_writes(archive, tmp_path):
    """Without -w each file's matches are counted; --json tells what was read; -c ends early; -w - is a file too."""
    out, told = run(find_command, "tcp port 443", archive, "--json", tmp_path / "found.json")
    counts = json.loads((tmp_path / "found.json").read_text())
    assert len(out.splitlines()) == 5
    assert len({line.split(": ")[1] for line in out.splitlines()}) == 1
    assert f"{counts['packets']} packets found; read 5 of 5 files" in told
    assert f"{format_size(counts['bytes']['archive'])} (100 %), and " in told
    assert told.endswith(" of indexes\n")
    assert sum(one["packets"] for one in counts["matching"]) == counts["packets"]
    run(find_command, "-c", 3, "tcp port 443", archive, "-w", archive / "out.pcap")
    assert len(records(archive / "out.pcap")) == 3
    again, _ = run(find_command, "tcp port 443", archive / "a.pcap", "-w", archive / "out.pcap", "-q")
    assert len(records(archive / "out.pcap")) == counts["packets"] // 5, "it is written anew where it is not searched"
    assert again == ""


@pytest.mark.parametrize("through", ["named", "folder", "link"])
def test_what_is_searched_is_not_overwritten(tmp_path, through):
    """Neither a file that was named nor one in a folder, by whatever name."""
    path = pcap(tmp_path / "a.pcap", [bytes(60)] * 3)
    before = path.read_bytes()
    (tmp_path / "other.pcap").symlink_to(path)
    output = tmp_path / "other.pcap" if through == "link" else path
    with pytest.raises(UsageError, match="is to be searched, and would be overwritten"):
        run(find_command, path if through == "named" else tmp_path, "-w", output)
    assert path.read_bytes() == before


def test_packets_out_of_order_are_told_of(tmp_path):
    """A file's packets keep their order, and a line says so where that is not the order of time."""
    path = pcap(tmp_path / "a.pcap", [bytes(60), b"x" * 60, b"y" * 60])
    data = path.read_bytes()
    path.write_bytes(data[:24] + data[24 + 76 :] + data[24 : 24 + 76])
    told = searched([path], tmp_path / "out.pcapng", "")[2]
    assert told[-1] == "1 packet comes behind a later one, as in the file: each file's packets keep their order"
    assert json.loads(run(find_command, path, "--json", "-", "-q")[0])["unordered"] == 1


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop"])
def test_an_index_that_cannot_be_read_is_none(tmp_path, kind):
    """The capture is searched; one line names the index."""
    path = pcap(tmp_path / "a.pcap", [bytes(60)] * 3)
    index = Path(index_path(str(path)))
    if kind == "loop":
        index.symlink_to(index)
    else:
        index.mkdir() if kind == "folder" else os.mkfifo(index)
    _, counts, told = searched([path], tmp_path / "out.pcapng", "")
    assert counts["packets"] == 3
    assert len(told) == 1
    assert f"its index {index}" in told[0]
    assert told[0].endswith("it is searched in full")


def test_trouble_with_one_file_does_not_end_the_search(tmp_path, part):
    """As with F/*: a link to nothing and a file that is no capture are told of, indexes are passed over."""
    path = shutil.copy(part, tmp_path / "a.pcap")
    indexed(path, SMALL)
    (tmp_path / "gone.pcap").symlink_to(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no capture, but longer than the header of one would be")
    found = find(FindConfig(paths=[str(one) for one in sorted(tmp_path.iterdir())], output=str(tmp_path / "o.pcap")))
    assert found.packets == 2500
    assert [line.split(": ")[0] for line in found.failures] == [
        str(tmp_path / "gone.pcap"),
        str(tmp_path / "notes.txt"),
    ]
    assert "a link to a file that is not there" in found.failures[0]
    with pytest.raises(WirecapError, match="2 files were not searched"):
        check(found)
    with pytest.raises(UsageError, match="no capture file that can be read"):
        find(FindConfig(paths=[str(tmp_path / "gone.pcap")]))


def test_folders_that_are_not_entered_are_told_of(tmp_path):
    """Those behind links, and those that cannot be read, also where they are all that there is."""
    pcap(tmp_path / "a.pcap", [bytes(60)])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    told: list[str] = []
    with pytest.raises(UsageError, match=r"no capture file that can be read in .*lines above"):
        find(FindConfig(paths=[str(tmp_path / "root")]), tell=told.append)
    assert told == [f"{tmp_path / 'root' / 'link'}: a link to a folder, which is not entered; name it to have it read"]
    assert find(FindConfig(paths=[str(tmp_path / "root" / "link")])).packets == 1


def test_an_unreadable_folder_is_a_problem(tmp_path, monkeypatch):
    """Also where no file is found: nothing is said to be without captures that could not be looked at."""
    (tmp_path / "shut").mkdir()
    scan = os.scandir

    def refusing(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    told: list[str] = []
    with pytest.raises(UsageError, match="no capture file that can be read"):
        find(FindConfig(paths=[str(tmp_path)]), tell=told.append)
    assert told == [f"{tmp_path / 'shut'}: Permission denied"]


def test_the_index_command(archive, part, tmp_path):
    """It makes those that are missing, and says so; good ones are left alone unless --force is given."""
    _, told = run(index_command, archive)
    assert told == ""
    Path(index_path(str(archive / "a.pcap"))).unlink()
    _, told = run(find_command, "tcp port 443", archive)
    assert "a.pcap has no index and is searched in full" in told
    _, told = run(index_command, archive)
    assert told.count("\n") == 1
    assert "a.pcap: 2500 packets" in told
    _, told = run(index_command, archive, "--force")
    assert told.count("\n") == 5
    (archive / "bad.pcap").write_bytes(part.read_bytes()[:10])
    with pytest.raises(WirecapError, match="1 of 6 files has no index"):
        run(index_command, archive)


def test_the_summary(archive, part, tmp_path):
    """One Parquet table has a row for each stretch of each file, in a schema with a version."""
    parquet = pytest.importorskip("pyarrow.parquet")
    run(index_command, archive, "--summary", tmp_path / "blocks.parquet")
    table = parquet.read_table(tmp_path / "blocks.parquet")
    assert table.schema.metadata[b"wirecap.index_summary"] == b"2"
    rows = [row for row in table.to_pylist() if (tmp_path / row["file"]) == archive / "a.pcap"]
    blocks = [row for row in rows if row["kind"] == "block"]
    assert sum(row["packets"] for row in blocks) == len(records(part))
    assert sum(row["bytes"] for row in blocks) == part.stat().st_size - 24
    assert [(row["offset"], row["bytes"]) for row in rows if row["kind"] == "head"] == [(0, 24)]
    assert all(row["first_time"] <= row["last_time"] for row in blocks)
    assert all(len(row["terms"]) % 8 == 0 for row in blocks)


def test_a_capture_writes_indexes(archive, part, tmp_path):
    """capture --index indexes each file of a ring, and removes the index with its file."""
    command = [sys.executable, "-m", "wirecap", "capture", "-r", part, "-w", tmp_path / "ring.pcapng", "--index"]
    subprocess.run([*command, "-b", "packets:400", "-b", "files:3"], check=True, capture_output=True, timeout=300)
    files = sorted(tmp_path.glob("ring*.pcapng"))
    assert len(files) == 3
    assert sorted(tmp_path.glob("ring*.wcidx")) == [Path(index_path(str(file))) for file in files]
    assert sum(Index(str(file)).packets for file in files) == 400 + 400 + 2500 % 400
    mine, counts, _ = searched(files, tmp_path / "mine.pcapng", "udp")
    full, _, _ = searched(files, tmp_path / "full.pcapng", "udp", indexes=False)
    assert mine == full
    assert counts["files"]["indexed"] == 3


def test_standard_output_has_no_index(tmp_path):
    with pytest.raises(UsageError, match="--index: there is no index beside standard output"):
        WriteConfig(path="-", indexed=True)


@pytest.mark.parametrize(("arguments", "message"), [
    (["tcp"], "no folder or file to search"),
    (["tcp", "/nowhere/at/all"], "/nowhere/at/all: no such file or folder"),
    (["tpc port 5", "{archive}"], "filter 'tpc port 5'"),
    (["--since", "25:00", "{archive}"], "--since: '25:00' is not a time"),
    (["--since", "yesterday", "{archive}"], "is not a time"),
    (["--since", "14:05", "--until", "14:00", "{archive}"], "--since is not before --until"),
    (["{empty}"], "no capture file in"),
    (["-w", "-", "--json", "-", "{archive}"], "both use standard output"),
    (["tcp port 443", "-f", "icmp", "{archive}"], "the filter is given twice: -f icmp and 'tcp port 443'"),
    (["-f", "tcp", "port", "443", "{archive}"], "the filter is given twice: -f tcp and 'port 443'"),
    (["host", "somebody", "{archive}"], "filter 'host': this is not a filter on its own .quote the whole filter"),
    (["tcp", "port", "443", "/nowhere"], "/nowhere: no such file or folder"),
    (["", ""], "no folder or file to search"),
    (["tcp", "{archive}", ""], "a file or folder has an empty name"),
    (["-c", "0", "{archive}"], "-c 0 asks for no packets"),
    (["--since", "14", "{archive}"], "--since: '14' is not clear .write 14:00 for a time of day, 14.0 for seconds"),
])  # fmt: skip
def test_errors_are_one_line(archive, tmp_path, arguments, message):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("not a capture")
    with pytest.raises(UsageError) as raised:
        run(find_command, *(one.format(archive=archive, empty=empty) for one in arguments))
    assert re.search(message, str(raised.value))


def test_a_filter_needs_no_quotes(archive):
    """Keywords, numbers and addresses in front of the first path are the filter; "" takes every packet."""
    quoted, _ = run(find_command, "-q", "tcp port 443", archive / "a.pcap")
    assert run(find_command, "-q", "tcp", "port", 443, archive / "a.pcap")[0] == quoted
    assert "2500 packets" in run(find_command, "-q", "", archive / "a.pcap")[0]


@pytest.mark.parametrize(("share", "shown"), [
    (0.0, "0 %"), (0.00004, "less than 0.001 %"), (0.047, "0.047 %"), (9.96, "10 %"), (99.6, "100 %"), (100.0, "100 %"),
])  # fmt: skip
def test_shares_are_no_powers_of_ten(share, shown):
    assert _percent(share) == shown


def test_headers_as_columns(archive, tmp_path):
    """-w NAME.parquet is a Parquet file, and -c holds for it."""
    parquet = pytest.importorskip("pyarrow.parquet")
    run(find_command, "tcp", "-c", 7, archive / "a.pcap", "-w", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet").num_rows == 7


def test_the_command_that_indexes_is_told_whole(tmp_path):
    """For several files it names what was searched, so that it indexes all of them; quoted where that is needed."""
    folder = tmp_path / "my captures"
    folder.mkdir()
    for name in "abc":
        pcap(folder / f"{name}.pcap", [bytes(60)])
    _, told = run(find_command, folder)
    assert f"3 files have no index and are searched in full (wirecap index '{folder}' makes them)" in told


def test_what_index_says(tmp_path):
    """It tells the damage in a file that it indexes as far as it goes, and how many files got no index."""
    path = pcap(tmp_path / "a.pcap", [bytes(60)] * 3)
    path.write_bytes(path.read_bytes()[:-7])
    _, told = run(index_command, path)
    assert "2 packets, index of" in told
    assert "what follows them is damaged, and always read: " in told
    assert "truncated dump file" in told
    Path(index_path(str(path))).unlink()
    Path(index_path(str(path))).mkdir()
    with pytest.raises(WirecapError, match=r"a\.pcap has no index"):
        run(index_command, path)
    with pytest.raises(UsageError) as raised:
        run(index_command, tmp_path / "nowhere")
    assert "behind the filter" not in str(raised.value)


def test_a_folder_that_others_write(archive, tmp_path):
    """Files that are empty yet or no captures are passed over; a link to one that went away is told of."""
    (archive / "new.pcapng").write_bytes(b"")
    (archive / "readme.txt").write_text("hello")
    (archive / "gone.pcap").symlink_to(tmp_path / "nowhere")
    _, counts, told = searched([archive], tmp_path / "out.pcapng", "tcp")
    assert counts["files"]["searched"] == 5
    assert told == [f"{archive / 'gone.pcap'}: a link to a file that is not there, or not to be read"]


def test_times():
    """14:00 is today's, in local time; -5m is so long ago; the rest is what convert takes."""
    while True:
        now = time.localtime()
        midnight = time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))
        found = [parse_when_ns("00:00"), parse_when_ns("00:00:05.25")]
        if time.localtime().tm_mday == now.tm_mday:  # else a day ended meanwhile
            break
    assert found == [int(midnight) * 10**9, int(midnight) * 10**9 + 5_250_000_000]
    assert parse_when_ns("1700000000.5") == 1_700_000_000_500_000_000
    assert parse_when_ns("2026-11-30T14:00Z") == 1_796_047_200_000_000_000
    before = time.time_ns()
    assert before - 300 * 10**9 <= parse_when_ns("-5m") <= time.time_ns() - 300 * 10**9


def test_a_writer_that_fails_leaves_no_index(tmp_path):
    """An index that cannot be made is told of, and costs no packet."""
    (tmp_path / "a.pcap.wcidx").mkdir()
    source = pcap(tmp_path / "source.pcap", [bytes(60)] * 10)
    sink = Sink(str(tmp_path / "a.pcap"), source.read_bytes()[:24], PCAP_US, indexed=True)
    submit(sink, [source.read_bytes()[24:]])
    sink.close()
    assert "it has no index: Is a directory" in sink.note
    assert (tmp_path / "a.pcap").read_bytes() == source.read_bytes()


def test_an_index_is_not_written_through_a_link(tmp_path):
    """In a folder of others its name may be a link to any file, or be a file with another name too."""
    victim, other = tmp_path / "victim", tmp_path / "other"
    for file in (victim, other):
        file.write_text("precious")
    for name, make in (("a.pcap", os.symlink), ("b.pcap", os.link)):
        path = pcap(tmp_path / name, [bytes(60)] * 10)
        make(victim if make is os.symlink else other, index_path(str(path)))
        assert indexed(path, 1000).packets == 10
        assert not Path(index_path(str(path))).is_symlink()
    assert victim.read_text() == other.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 6


class Full(io.BytesIO):
    """A file on a full disk, which takes what stays in its buffer."""

    def close(self):
        if not self.closed:
            super().close()
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("ends", ["finish", "abandon"])
def test_a_full_disk_leaves_the_index_that_was_there(tmp_path, monkeypatch, ends):
    """A new one that cannot be written whole leaves nothing behind, whenever that shows."""
    path = pcap(tmp_path / "a.pcap", [bytes(60)] * 10)
    indexed(path, 1000)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    made = index._new_file

    def full(path):
        name, out = made(path)
        out.close()
        return name, Full()

    monkeypatch.setattr(index, "_new_file", full)
    if ends == "abandon":
        monkeypatch.setattr(Builder, "take", lambda self, timeout_s: 1 / 0)
    with pytest.raises(OSError if ends == "finish" else ZeroDivisionError):
        indexed(path, 1000)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_index_that_is_being_made_is_no_capture_file(tmp_path):
    """Nor the rest of one that was not finished; the bounds on all files remove it with its file."""
    path = pcap(tmp_path / "a.pcap", [bytes(60)] * 10)
    with open_capture(str(path)) as file:
        builder = Builder(file, index_path(str(path)))
        (unfinished,) = {each.name for each in tmp_path.iterdir()} - {"a.pcap"}
        assert files_of([str(tmp_path)]).files == [str(path)]
        builder.abandon()
    match = names_of(WriteConfig(path=str(path)), str(path)).fullmatch(unfinished)
    assert match
    assert match[1] == "a.pcap"
    assert [each.name for each in tmp_path.iterdir()] == ["a.pcap"]
