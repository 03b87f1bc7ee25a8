"""``wirecap find`` over URLs: an object store and a web server, both real; the tables of blocks as one dataset."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from archive_rig import records

from object_store import environment, object_store, put
from web_server import web_server
from wirecap.cli import main
from wirecap.files import urls
from wirecap.files.index import make_index
from wirecap.files.reader import open_capture

pytest.importorskip("s3fs")
pytest.importorskip("moto")
pytest.importorskip("pyarrow")
SECRET = "not-to-be-seen"
SENSORS = ("berlin", "paris")
BLOCK_BYTES = 1 << 14


@pytest.fixture(scope="module")
def archive(part, tmp_path_factory):
    """Two sensors' folders: packets that take turns in time, and an index beside each file."""
    folder = tmp_path_factory.mktemp("sensors")
    data, found = part.read_bytes(), records(part)
    edges = [at for at, _, _ in found[::100]] + [len(data)]
    for number, sensor in enumerate(SENSORS):
        (folder / sensor).mkdir()
        for name, first, last in (("a.pcap", 0, 13), ("b.pcap", 13, 25)):
            rows = [data[edges[k] : edges[k + 1]] for k in range(first, last) if k % 2 == number]
            path = folder / sensor / name
            path.write_bytes(data[:24] + b"".join(rows))
            with open_capture(str(path)) as file:
                make_index(file, str(path), BLOCK_BYTES)
    return folder


@pytest.fixture(scope="module")
def query(part):
    """A filter that some eight packets match."""
    counts: dict[str, int] = {}
    for _, _, packet in records(part):
        if packet[12:14] == b"\x08\0" and len(packet) > 34:
            address = ".".join(map(str, packet[26:30]))
            counts[address] = counts.get(address, 0) + 1
    return f"host {min(counts, key=lambda address: (abs(counts[address] - 8), address))}"


@pytest.fixture(scope="module")
def endpoint(archive):
    with object_store() as endpoint:
        put(f"{endpoint}/fleet", b"")
        for path in archive.rglob("*"):
            if path.is_file():
                put(f"{endpoint}/fleet/{path.relative_to(archive)}", path.read_bytes())
        yield endpoint


@pytest.fixture
def fetched(endpoint, monkeypatch):
    """What was asked for since: {URL: [bytes of each range]}."""
    from wirecap.files.urls import RangeSource

    for name, value in environment(endpoint, SECRET).items():
        monkeypatch.setenv(name, value)
    ranges: dict[str, list[int]] = {}
    read = RangeSource.read

    def counted(self, begin, end):
        ranges.setdefault(self._url, []).append(end - begin)
        return read(self, begin, end)

    monkeypatch.setattr(RangeSource, "read", counted)
    return ranges


def found(tmp_path: Path, *words: object) -> tuple[bytes, dict]:
    """(the file that is written, the counters) of a search."""
    out, counters = tmp_path / "found.pcap", tmp_path / "found.json"
    out.unlink(missing_ok=True)
    line = ["find", *map(str, words), "-q", "-w", str(out), "--json", str(counters)]
    assert main.run(line) == 0
    return out.read_bytes(), json.loads(counters.read_text())


@pytest.mark.filterwarnings("ignore")
def test_an_object_store(archive, query, fetched, tmp_path, capfd):
    """Prefixes and folders alike, several at once: the packets of local files, in order of time, by ranges of a part
    of the files."""
    wanted, local = found(tmp_path, query, archive)
    assert local["packets"] > 0
    got, counts = found(tmp_path, query, *(f"s3://fleet/{sensor}" for sensor in SENSORS))
    assert got == wanted
    assert counts["files"] == {"searched": 4, "indexed": 4, "read": local["files"]["read"]}
    assert counts["bytes"]["read"] == local["bytes"]["read"] < counts["bytes"]["archive"] / 2
    asked = sum(sum(sizes) for url, sizes in fetched.items() if url.endswith(".pcap"))
    assert asked <= counts["bytes"]["read"] + counts["files"]["read"] * (
        2 * 4096 + 4
    )  # and both ends, to know the file
    assert sum(sum(sizes) for url, sizes in fetched.items() if url.endswith(".wcidx")) > 0
    mixed, _ = found(tmp_path, query, archive / "berlin", "s3://fleet/paris")
    assert mixed == wanted
    full, counts = found(tmp_path, query, "s3://fleet", "--no-index")
    assert full == wanted
    assert counts["bytes"]["read"] == counts["bytes"]["archive"]
    shown = capfd.readouterr()
    assert SECRET not in shown.out + shown.err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beside", [True, False])
def test_tables_are_one_dataset(archive, query, fetched, endpoint, tmp_path, capfd, beside):
    """A table for each sensor takes the place of the indexes, which nobody asks for, in a bucket and in a folder."""
    copy, bucket = tmp_path / "copy", f"tables{int(beside)}"
    shutil.copytree(archive, copy)
    put(f"{endpoint}/{bucket}", b"")
    for sensor in SENSORS:
        assert main.run(["index", "-q", str(copy / sensor), "--summary", str(copy / sensor / "all.wcidx.parquet")]) == 0
        for path in (copy / sensor).iterdir():
            if path.name.endswith(".wcidx") and not beside:
                path.unlink()
                continue
            put(f"{endpoint}/{bucket}/{sensor}/{path.name}", path.read_bytes())
    wanted, local = found(tmp_path, query, archive)
    got, counts = found(tmp_path, query, f"s3://{bucket}")
    assert got == wanted
    assert not any(url.endswith(".wcidx") for url in fetched)
    for name in ("files", "blocks"):
        assert counts[name] == local[name]
    assert counts["bytes"]["read"] == local["bytes"]["read"]
    assert counts["bytes"]["index_read"] == sum(
        sum(sizes) for url, sizes in fetched.items() if url.endswith(".wcidx.parquet")
    )
    got, counts = found(tmp_path, query, copy)
    assert got == wanted
    assert counts["files"] == local["files"]
    assert capfd.readouterr().err == ""
    os.utime(copy / "berlin" / "a.pcap")  # the table is of another time
    _, counts = found(tmp_path, query, copy)
    assert counts["files"]["indexed"] == 3


@pytest.mark.filterwarnings("ignore")
def test_indexes_of_what_is_behind_urls(archive, query, fetched, endpoint, tmp_path, capfd):
    """They go into a table here, with which a search reads as little as with an index beside each; what is no capture
    is named and left out; a good index beside a file is taken as it is."""
    table = tmp_path / "bare.wcidx.parquet"
    put(f"{endpoint}/bare", b"")
    for path in archive.rglob("*.pcap"):
        data, name = path.read_bytes(), str(path.relative_to(archive))
        if path.parent.name == "paris":
            data, name = gzip.compress(data), f"{name}.gz"
        put(f"{endpoint}/bare/{name}", data)
    assert main.run(["index", "s3://bare"]) == 2
    shown = capfd.readouterr().err
    assert "s3://bare/berlin/a.pcap: nothing is written behind a URL" in shown
    assert "--summary NAME.wcidx.parquet" in shown
    assert main.run(["index", "s3://bare", "--summary", str(table)]) == 0
    made = capfd.readouterr().err.splitlines()
    assert made[0].startswith("s3://bare/berlin/a.pcap: 700 packets, index of ")
    assert len(made) == 5
    assert not any(name.endswith(".wcidx") for name in urls.filesystem("s3://bare").find("s3://bare"))
    wanted, local = found(tmp_path, query, archive)
    fetched.clear()
    got, counts = found(tmp_path, query, "s3://bare", table)
    assert got == wanted
    assert counts["files"] == {"searched": 4, "indexed": 4, "read": local["files"]["read"]}
    _, counts = found(tmp_path, "host 203.0.113.77", "s3://bare", table)
    assert (counts["packets"], counts["bytes"]["read"]) == (0, 0)
    put(f"{endpoint}/bare/junk.pcap", b"no capture file at all")
    put(f"{endpoint}/bare/none.pcap", b"")
    assert main.run(["index", "-q", "s3://bare", "--summary", str(table)]) == 1
    shown = capfd.readouterr().err
    assert "s3://bare/junk.pcap: " in shown
    assert "s3://bare/none.pcap: the file is empty" in shown
    assert "2 of 6 files have no index" in shown
    fetched.clear()
    assert main.run(["index", "s3://fleet/berlin", "--summary", str(table)]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert sum(sum(sizes) for url, sizes in fetched.items() if url.endswith(".pcap")) <= 2 * (2 * 4096 + 4)


@pytest.mark.filterwarnings("ignore")
def test_another_file_of_the_same_size(archive, query, fetched, endpoint, tmp_path, capfd):
    """It is seen when it is read, told, and searched in full."""
    put(f"{endpoint}/other", b"")
    data = bytearray((archive / "berlin" / "a.pcap").read_bytes())
    data[-1] ^= 1
    put(f"{endpoint}/other/a.pcap", bytes(data))
    put(f"{endpoint}/other/a.pcap.wcidx", (archive / "berlin" / "a.pcap.wcidx").read_bytes())
    _, counts = found(tmp_path, query, "s3://other")
    assert counts["packets"] > 0
    assert counts["bytes"]["read"] == counts["bytes"]["archive"]
    assert "its index is of another file, or the file was changed: it is searched in full" in capfd.readouterr().err


def test_the_schema(archive, tmp_path):
    """DuckDB reads the tables, chooses by time, and finds every byte of a file; no type is one that Spark refuses."""
    duckdb, parquet = pytest.importorskip("duckdb"), pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "all.wcidx.parquet"
    assert main.run(["index", "-q", str(archive), "--summary", str(out)]) == 0
    described = parquet.ParquetFile(out)
    assert described.schema_arrow.metadata[b"wirecap.index_summary"] == b"2"
    types = {str(described.schema.column(n).logical_type) for n in range(len(described.schema.names))}
    assert not any("nano" in one.lower() or "isSigned=false" in one for one in types)
    rows = duckdb.sql(
        f"select file, sum(bytes), any_value(file_bytes), sum(packets) from '{out}' group by file order by file"
    ).fetchall()
    assert [row[0] for row in rows] == [str(archive / s / f) for s in SENSORS for f in ("a.pcap", "b.pcap")]
    assert all(stored == whole for _, stored, whole, _ in rows)
    assert sum(row[3] for row in rows) == 2500
    (first, last, some) = duckdb.sql(
        f"select min(first_time), max(last_time), count(*) filter (kind = 'block' and first_ns <= last_ns) from '{out}'"
    ).fetchall()[0]
    assert first <= last
    assert some > 4


@pytest.mark.filterwarnings("ignore")
def test_a_web_server(archive, query, tmp_path, capfd):
    """Files behind HTTP are searched by ranges, with the index beside each; none there is one line and status 2."""
    with web_server(archive) as server:
        urls = [f"{server.url}/{sensor}/{file}" for sensor in SENSORS for file in ("a.pcap", "b.pcap")]
        wanted, local = found(tmp_path, query, archive)
        got, counts = found(tmp_path, query, *urls)
        assert got == wanted
        assert counts["files"] == local["files"]
        given = sum(size for name, size in server.given if name.endswith(".pcap"))
        assert given <= local["bytes"]["read"] + 4 * (2 * 4096 + 4)
        assert main.run(["find", query, f"{urls[0]}.none"]) == 2
        shown = capfd.readouterr().err
        assert "a.pcap.none: there is no such file" in shown
        assert len(shown.splitlines()) == 1


def test_tables_of_no_use(archive, query, tmp_path, capfd):
    """A file that is no table, one of another version, and one that lacks what it must have: a line each, and the
    files are searched without them."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    copy = tmp_path / "copy"
    shutil.copytree(archive, copy)
    wanted, _ = found(tmp_path, query, archive)
    table = copy / "all.wcidx.parquet"
    assert main.run(["index", "-q", str(copy), "--summary", str(table)]) == 0
    for path in copy.rglob("*.wcidx"):
        path.unlink()
    good = parquet.read_table(table)
    nothing = pyarrow.nulls(good.num_rows, pyarrow.int64())
    place = good.schema.get_field_index("stored_offset")
    _, counts = found(tmp_path, query, copy)
    assert counts["files"]["indexed"] == 4
    assert capfd.readouterr().err == ""
    for write, said in (
        (lambda: table.write_bytes(b"PAR1 junk"), "it is not a table of blocks"),
        (lambda: parquet.write_table(good.replace_schema_metadata({}), table), "it is a table of version ?"),
        (lambda: parquet.write_table(good.drop_columns(["kind"]), table), "its column kind is not as version 2 has it"),
        (lambda: parquet.write_table(good.set_column(place, "stored_offset", nothing), table), "it is damaged"),
    ):
        write()
        got, counts = found(tmp_path, query, copy)
        assert got == wanted
        assert counts["files"]["indexed"] == 0
        shown = capfd.readouterr().err
        assert f"{table}: {said}" in shown
        assert "4 files have no index and are searched in full" in shown
