"""``wirecap map``: the same result for any number of workers, from files that are read in parts."""

from __future__ import annotations

import json
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zstandard
from map_rig import HANDLERS, frame, pcap

import wirecap
from wirecap.cli import main
from wirecap.config.specs import HandlerSpec
from wirecap.files.boundary import first_record
from wirecap.files.part import Range, context_of, open_part
from wirecap.files.reader import Progress, open_capture
from wirecap.handlers import table
from wirecap.handlers.handler import Setting
from wirecap.handlers.parts import MANY, Summing, TableCopy
from wirecap.handlers.state import plain
from wirecap.handlers.tables import merged
from wirecap.kernels.handlers.tables import COUNTER, HISTOGRAM, TOP, Kind
from wirecap.mapping.coordinator import Coordinator
from wirecap.mapping.handler_text import HandlerText
from wirecap.mapping.inputs import inputs_of
from wirecap.mapping.map import map_files
from wirecap.mapping.part import Job
from wirecap.mapping.workers import outcome_of

PART = 1 << 16


def block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<II", kind, 12 + len(body)) + body + struct.pack("<I", 12 + len(body))


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))


def enhanced(packet: bytes, interface: int, number: int) -> bytes:
    ticks = 1_700_000_000_000_000 + number
    return block(
        6, struct.pack("<IIIII", interface, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet)) + packet
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory, mixed_trace):
    """A folder: mixed traffic as pcap, and as pcapng whose interfaces are described on the way, in two sections."""
    folder = tmp_path_factory.mktemp("archive")
    data = mixed_trace.read_bytes()
    packets, at = [], 24
    while at + 16 <= len(data) and len(packets) < 1500:
        captured = struct.unpack_from("<I", data, at + 8)[0]
        packets.append(data[at + 16 : at + 16 + captured])
        at += 16 + captured
    (folder / "a.pcap").write_bytes(data[:at])
    rows = [SECTION, block(1, struct.pack("<HHI", 1, 0, 0))]
    for number, packet in enumerate(packets):
        if number == 700:
            rows.append(block(1, struct.pack("<HHI", 1, 0, 0)))
        if number == 1100:
            rows += [SECTION, *2 * [block(1, struct.pack("<HHI", 1, 0, 0))]]
        rows.append(enhanced(packet, number % 2 if number >= 700 else 0, number))
    (folder / "b.pcapng").write_bytes(b"".join(rows))
    return folder


def in_this_process(spec: HandlerSpec, paths: list[Path], order: random.Random, part_bytes: int = PART, **more):
    """The coordinator over workers that are this process, whose results come in any order."""

    class Here:
        count = 3

        def __init__(self):
            self.tasks = []

        def submit(self, key, task, avoid=""):
            self.tasks.append((key, task))

        def next(self):
            key, task = self.tasks.pop(order.randrange(len(self.tasks)))
            return key, outcome_of(task)

    text = HandlerText.of(spec)
    handler = table.make(text.spec(), Setting())
    fold = handler.fold()
    inputs, _ = inputs_of([str(path) for path in paths])
    counts = Coordinator(Job(text, **more), inputs, Here(), fold, handler.divides, part_bytes, **more).run()
    return counts, fold.result()


def test_tables_of_many_parts():
    """Tables of more parts than are kept apart add up to what all of them together have."""
    kinds = {
        "top": Kind(TOP, ("dst_port",), 50, (5,)), "counter": Kind(COUNTER, ("dst_port",), 50),
        "bins": Kind(HISTOGRAM, ("length",), 0, (0, 64, 128)),
    }  # fmt: skip
    rng = np.random.default_rng(3)
    dtype = np.dtype([(name, kind.dtype) for name, kind in kinds.items()])
    folded, copies = Summing(dtype, kinds), {name: [] for name in kinds}
    for _ in range(2 * MANY + 10):
        keys = rng.permutation(40)[:20, None].astype(np.int64)
        amounts, counts = rng.integers(1, 1000, 20), rng.integers(0, 9, 4)
        table = TableCopy(int(amounts.sum()) + 7, 7, None, 20, keys, amounts, 0, 1)
        record = {"top": table, "counter": table, "bins": TableCopy(int(counts.sum()), 0, counts)}
        folded.add([record])
        for name in kinds:
            copies[name].append(record[name])
    wanted = {name: merged(copies[name], kind) for name, kind in kinds.items()}
    assert plain(folded.result()) == plain(wanted)
    assert wanted["top"].error == 2 * MANY + 10
    assert len(wanted["counter"]) == 40


def without_run(path: Path) -> dict:
    summary = json.loads(path.read_text())
    assert summary.pop("run")["parts"] >= 1
    return summary


@pytest.mark.parametrize("name", ["sums", "merged", "lengths", "digests"])
def test_parts_in_any_order_are_one_pass(archive, name):
    """Parts of files, read in any order, give what a capture of each file gives."""
    handler = f"{HANDLERS}:{name}"
    counts, result = in_this_process(HandlerSpec.parse(handler), [archive / "b.pcapng"], random.Random(name))
    whole = wirecap.capture(str(archive / "b.pcapng"), handler)
    assert counts.parts > 3
    assert counts.read_again  # those behind the interface, and the section, that no part before could know
    assert counts.received == whole.summary["packets"]["received"] == 1500
    for field in ("share",) if name == "sums" else ():
        assert result.pop(field) == pytest.approx(whole.result.pop(field))
    assert json.dumps(plain(result)) == json.dumps(plain(whole.result))


FRAMES = {"gz": lambda data: zlib.compress(data, 1, 31), "zst": zstandard.ZstdCompressor(level=1).compress}
SIZES = {"frames": lambda dice: dice.randint(50, 20_000), "tiny": lambda dice: dice.randint(200, 900),
         "one": lambda dice: 1 << 30}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "suffix", "size"),
    [
        ("a.pcap", "gz", "frames"), ("a.pcap", "zst", "frames"), ("b.pcapng", "gz", "frames"),
        ("b.pcapng", "zst", "frames"), ("a.pcap", "gz", "tiny"), ("a.pcap", "zst", "one"), ("b.pcapng", "gz", "one"),
    ],
)  # fmt: skip
def test_compressed_files_are_read_by_frames(archive, tmp_path, name, suffix, size):
    """Members and frames that end anywhere, in records and in headers, are read in parts, and are one pass; a file
    of one is read by one part."""
    dice, data, at, rows = random.Random(size), (archive / name).read_bytes(), 0, []
    path = tmp_path / f"{name}.{suffix}"
    while at < len(data):
        length = SIZES[size](dice)
        rows.append(FRAMES[suffix](data[at : at + length]))
        at += length
    path.write_bytes(b"".join(rows))
    spec = HandlerSpec.parse(f"{HANDLERS}:digests")
    counts, result = in_this_process(spec, [path], dice, part_bytes=max(2000, path.stat().st_size // 6))
    whole = wirecap.capture(str(archive / name), f"{HANDLERS}:digests")
    assert json.dumps(plain(result)) == json.dumps(plain(whole.result))
    assert counts.parts > 3
    assert counts.received == whole.summary["packets"]["received"]


def test_a_cut_member(tmp_path):
    """What is before the cut counts, and the place is named."""
    packets = [frame(400, n) for n in range(400)]
    data = pcap(tmp_path / "x.pcap", packets).read_bytes()
    rows = [zlib.compress(data[at : at + 20_000], 1, 31) for at in range(0, len(data), 20_000)]
    path = tmp_path / "x.pcap.gz"
    path.write_bytes(b"".join(rows[:-1]) + rows[-1][: len(rows[-1]) // 2])
    counts, result = in_this_process(
        HandlerSpec.parse(f"{HANDLERS}:lengths"), [path], random.Random(1), part_bytes=2000, keep_going=True
    )
    assert 380 < result[400] < 400
    assert "the compressed data ends early" in counts.files[0].failed


def test_any_number_of_workers(archive, tmp_path, capfd):
    """1, 2 and 5 processes: the same bytes."""
    seen = set()
    for workers in ("1", "2", "5"):
        out = tmp_path / f"{workers}.json"
        line = ["map", f"{HANDLERS}:lengths", str(archive), "ip", "--part", "64KiB", "--workers", workers, "-q"]
        assert main.run([*line, "--json", str(out)]) == 0
        shown = capfd.readouterr()
        assert shown.err == ""
        seen.add((shown.out, json.dumps(without_run(out))))
    assert len(seen) == 1
    assert sum(json.loads(next(iter(seen))[0])["lengths"].values()) > 1000


def test_flows_of_whole_files(archive, tmp_path, capfd):
    """Flow records are those that a capture of each file makes, file after file."""
    for workers in (1, 2):
        to = f"file:{tmp_path}/{workers}.jsonl"
        assert main.run(["map", "flows", str(archive), "--part", "64KiB", "--workers", str(workers), "--to", to]) == 0
    found = (tmp_path / "1.jsonl").read_bytes()
    assert found == (tmp_path / "2.jsonl").read_bytes()
    ours = sorted(found.splitlines())
    theirs = []
    for name in ("a.pcap", "b.pcapng"):
        wirecap.capture(str(archive / name), "flows", to=f"file:{tmp_path}/{name}.jsonl")
        theirs += (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
    assert ours == sorted(theirs)
    assert "flow records" in capfd.readouterr().err


def test_count_and_filter(archive, capfd):
    """The counters are a capture's, and so is what the filter rejects."""
    assert main.run(["map", "count", str(archive / "a.pcap"), str(archive / "b.pcapng"), "tcp", "or", "arp"]) == 0
    wanted = sum(
        wirecap.capture(str(archive / name), "count", filter="tcp or arp").summary["packets"]["delivered"]
        for name in ("a.pcap", "b.pcapng")
    )
    lines = capfd.readouterr().err.splitlines()
    assert lines[1:3] == ["3000 packets read", f"{wanted} packets received by filter"]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
def test_packets_that_carry_captures(tmp_path, kind):
    """Payloads that are capture files mislead where a part begins: it is read again, and nothing is lost or doubled."""
    inner = b"".join(
        struct.pack("<IIII", 1_700_000_000, n, 60, 60) + frame(60, n)
        if kind == "pcap"
        else enhanced(frame(60, n), 0, n)
        for n in range(300)
    )
    packets = [frame(44, n) + inner for n in range(40)]  # where a block of pcapng may begin
    if kind == "pcap":
        path = pcap(tmp_path / "x.pcap", packets)
    else:
        path = tmp_path / "x.pcapng"
        rows = [SECTION, block(1, struct.pack("<HHI", 1, 0, 0)), *(enhanced(p, 0, n) for n, p in enumerate(packets))]
        path.write_bytes(b"".join(rows))
    counts, result = in_this_process(HandlerSpec.parse(f"{HANDLERS}:lengths"), [path], random.Random(1))
    assert result == {44 + len(inner): 40}
    assert counts.received == 40
    assert counts.read_again > 3


def test_each_part_ends_where_the_next_begins(archive):
    """From any place of a file, the first record that is found is one, and parts join without a gap."""
    for name in ("a.pcap", "b.pcapng"):
        path = archive / name
        whole, begins = open_capture(str(path)), []
        with whole:
            row = whole.feed.arena  # every record's place, by scanning one packet at a time
            one = [np.zeros(1, np.int64), np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.zeros(1, np.int64)]
            while True:
                begins.append(whole.offset)
                if whole.fill(*one, 1)[1] is Progress.ENDED:
                    break
            header = 16 if whole.kind == "pcap" else 28
            for begin in random.Random(name).sample(range(30, path.stat().st_size), 60):
                found = first_record(whole, lambda b, e, row=row: row[b:e], begin, len(row), len(row))
                assert found is None or found in begins or found + header in begins or row[found] in (1, 10)
        at, context = 0, ()
        for begin in range(0, path.stat().st_size, PART):
            part = open_part(str(path), Range(begin, begin + PART, at if begin else None, context))
            assert part is not None
            with part:
                while part.fill(*one, 1)[1] is not Progress.ENDED:
                    pass
                at, context = part.offset, context_of(part)
        assert at == path.stat().st_size


def test_a_worker_is_killed(tmp_path):
    """A worker that is killed half-way is replaced, and the result is that of one that was not."""
    path = pcap(tmp_path / "x.pcap", [frame(999 if n == 150 else 500, n) for n in range(400)])
    (tmp_path / "mark").mkdir()
    handler = f"{HANDLERS}:deadly:mark={tmp_path}/mark"
    summary = map_files(HandlerSpec.parse(handler), [str(path)], workers=2, part_bytes=PART)
    assert summary["handlers"][0]["result"] == {500: 399, 999: 1}
    assert summary["run"]["retried"] == 1
    assert len(list((tmp_path / "mark").iterdir())) == 1


def test_a_file_that_kills_every_worker(tmp_path, capfd):
    """After the second time the file is named with its offset; with --keep-going the others count."""
    bad = pcap(tmp_path / "a.pcap", [frame(999)])
    pcap(tmp_path / "b.pcap", [frame(100)] * 3)
    for number, more in enumerate(([], ["--keep-going"])):
        mark = tmp_path / f"mark{number}"
        mark.mkdir()
        line = ["map", f"{HANDLERS}:deadly:mark={mark},times=9", str(tmp_path), "--workers", "2", *more]
        assert main.run(line) == 1
        assert len(list(mark.iterdir())) == 2
        shown = capfd.readouterr()
        told = f"wirecap: {bad}: the process that read it was killed by SIGKILL (in the part from offset 0)"
        assert told in shown.err
        assert ('{"deadly": {"100": 3}}' in shown.out) == bool(more)


def test_a_damaged_file(tmp_path, capfd):
    """It is named with the offset; with --keep-going what is before the damage counts, as in a capture."""
    path = pcap(tmp_path / "a.pcap", [frame(100, n) for n in range(5)])
    path.write_bytes(path.read_bytes()[:-10])
    pcap(tmp_path / "b.pcap", [frame(200)] * 3)
    assert main.run(["map", f"{HANDLERS}:lengths", str(tmp_path)]) == 2
    assert f"wirecap: {path}: truncated dump file" in capfd.readouterr().err
    out = tmp_path / "out.json"
    assert main.run(["map", f"{HANDLERS}:lengths", str(tmp_path), "--keep-going", "--json", str(out)]) == 1
    shown = capfd.readouterr()
    assert '{"lengths": {"100": 4, "200": 3}}' in shown.out
    assert "at offset" in shown.err
    assert "1 file was not read to the end" in shown.err
    files = json.loads(out.read_text())["files"]
    assert [(file["packets"], "failed" in file) for file in files] == [(4, True), (3, False)]
    assert files[1]["bytes"] == (tmp_path / "b.pcap").stat().st_size


def test_a_handler_without_a_state(tmp_path, capfd):
    """One worker reads the files in order, and a line says so."""
    for number in range(3):
        pcap(tmp_path / f"{number}.pcap", [frame(100 + number, n) for n in range(50)])
    out = tmp_path / "out.txt"
    assert main.run(["map", f"{HANDLERS}:in_order:file={out}", str(tmp_path)]) == 0
    assert "no state that could be merged: one worker reads the files in order" in capfd.readouterr().err
    assert [line.split()[1] for line in out.read_text().splitlines()] == ["100"] * 50 + ["101"] * 50 + ["102"] * 50


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("map count", "no file or folder is named"),
        ("map count {none}.pcap", "no such file or folder"),
        ("map nothing {file}", "unknown handler 'nothing'"),
        ("map write {file}", "handler write cannot be mapped over files"),
        ("map share {file}", "handler share cannot be mapped over files"),
        ("map count {file} bad filter", "bad"),
        ("map count {file} -f tcp udp", "the filter is given twice"),
        ("map count {file} --workers 0", "unsupported number of workers: 0"),
        ("map count {file} --part 1", "are too few"),
        ("map count {file} --to file:x", "only the handler flows has records to put there"),
        ("map ./none.py:f {file}", "no such file"),
        ("map {handlers}:none {file}", "has no 'none'"),
        ("map {handlers}:cannot_travel {file}", "its state cannot be sent to another process"),
        ("map count /dev/null", "this is not a file"),
        ("map count {empty}", "no capture file in"),
    ],
)
def test_mistakes(tmp_path, capfd, line, told):
    """Each is one line, and status 2."""
    file = pcap(tmp_path / "x.pcap", [frame(100)])
    (tmp_path / "empty").mkdir()
    places = {"file": file, "handlers": HANDLERS, "none": tmp_path / "none", "empty": tmp_path / "empty"}
    assert main.run(line.format(**places).split()) == 2
    shown = capfd.readouterr()
    assert told in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


def test_a_handler_that_reads_the_hash(tmp_path, capfd):
    """Files have none: a line says so, as in a capture."""
    (tmp_path / "own.py").write_text("def hashes(packet, state):\n    state.hashes += packet.nic_hash\n")
    file = pcap(tmp_path / "a.pcap", [frame(100)])
    assert main.run(["map", f"{tmp_path}/own.py:hashes", str(file)]) == 0
    assert "wirecap: handler hashes reads packet.nic_hash, which is 0 here: files have none" in capfd.readouterr().err


def test_from_python(archive):
    """wirecap.map takes names and functions, and refuses what has no text."""
    outcome = wirecap.map(f"{HANDLERS}:merged", archive, filter="ip", workers=1)
    assert outcome.result == outcome.summary["packets"]["delivered"]
    assert outcome.summary["files"][0]["path"] == str(archive / "a.pcap")
    assert wirecap.map("count", [archive / "a.pcap"], workers=1).result is None

    def local(packet, state):
        state.packets += 1

    with pytest.raises(wirecap.UsageError, match="top level of a file"):
        wirecap.map(local, archive)
