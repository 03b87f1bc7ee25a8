"""Flow records through a real NATS server into a dataset: spool, duplicates, gaps, kills; what is refused."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from fleet_bench import BENCH, fleet
from rig import Wire, captured, flow_frames, read_pcapng, until
from wirecap.cli import main
from wirecap.config.capture import Spooling
from wirecap.config.keep import trigger_name
from wirecap.errors import UsageError
from wirecap.flows import broker, nats, spool
from wirecap.flows.dataset import STATE, Dataset
from wirecap.flows.link import Link
from wirecap.flows.nats import SENT, SEQUENCE, NatsOutput, encode
from wirecap.flows.records import Records
from wirecap.flows.seen import Seen
from wirecap.flows.spool import Sealed, Spool
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.flows import layout as f
from wirecap.lab.process import Child

LONG_S = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    try:
        fleet.nats_server()
    except SystemExit as missing:
        pytest.skip(str(missing))
    found = fleet.Broker(tmp_path_factory.mktemp("broker"))
    found.start()
    yield found
    found.kill()


@pytest.fixture
def subject(tmp_path: Path) -> str:
    """One that no other test has."""
    return f"flows.{os.getpid()}.{abs(hash(str(tmp_path)))}"


def words(count: int, first: int = 0) -> Any:
    """Records of UDP flows, one a second, 5 packets each."""
    found = np.zeros((count, f.ENTRY_WORDS), np.int64)
    found[:, f.A_LOW] = 0x0A000001
    found[:, f.B_LOW] = 0x0A000002
    found[:, f.KEY] = 17 << f.PROTOCOL | 53 << f.PORT_B
    found[:, f.FIRST] = found[:, f.LAST] = (1_700_000_000 + first + np.arange(count)) * 1_000_000_000
    found[:, f.PACKETS] = 5
    return found


def collect(server: Any, subject: str, folder: Path, *options: str) -> dict[str, Any]:
    out = folder / "collected.json"
    pattern = str(folder / "flows" / "%Y/%m/%d/%H.parquet")
    line = ["collect", f"{server.url}/{subject}", "-w", pattern, "--once", "--json", str(out), *options]
    assert main.run(line) == 0
    return json.loads(out.read_text())


def stored(folder: Path) -> list[tuple[str, int, int]]:
    """(sensor, records, packets), as DuckDB reads the dataset."""
    glob = f"{folder}/flows/**/*.parquet"
    sql = f"select sensor, count(*), sum(packetDeltaCount)::bigint from '{glob}' group by sensor order by sensor"
    return duckdb.sql(sql).fetchall()


def publish(server: Any, subject: str, messages: list[tuple[bytes, dict[str, str]]]) -> None:
    async def send() -> None:
        connection = await broker.connect(broker.parse(f"{server.url}/{subject}", False), "test")
        js = connection.jetstream(timeout=60)
        await broker.stream_of(js, subject)
        for data, given in messages:
            await js.publish(subject, data, headers=given)
        await connection.close()

    asyncio.run(send())


def message(number: int, before: int, count: int, **changed: str) -> tuple[bytes, dict[str, str]]:
    given = {
        "Wirecap-Schema": "1", "Wirecap-Spool": "a", SEQUENCE: str(number), "Wirecap-Records": str(count),
        SENT: str(before + count), "Wirecap-Made": str(before + count), "Wirecap-Spooled": "0", "Wirecap-Dropped": "{}",
    }  # fmt: skip
    given |= {name.replace("_", "-"): value for name, value in changed.items()}
    return encode(Sealed(number, before, words(count, before))), given


def test_from_a_capture_to_a_dataset(server, subject, trace, tmp_path, capsys):
    """Every record that the capture made is in the dataset, as DuckDB reads it, with the sensor's name; once."""
    line = ["capture", "-r", str(trace), "--handler", "flows", "--to", f"{server.url}/{subject}"]
    line += ["--spool", str(tmp_path / "spool"), "--to", f"file:{tmp_path}/beside.parquet", "--json", "-"]
    assert main.run(line) == 0
    result = json.loads(capsys.readouterr().out)["handlers"][0]["result"]
    (way,) = result["brokers"].values()
    assert way == {"acknowledged": result["records"], "spooled": 0}
    found = collect(server, subject, tmp_path)
    (sensor,) = found["sensors"]
    assert (sensor["records"], sensor["made"], sensor["gaps"]) == (result["records"], result["records"], [])
    dataset, beside = f"'{tmp_path}/flows/**/*.parquet'", f"'{tmp_path}/beside.parquet'"
    one, other = f"select * exclude (sensor) from {dataset}", f"from {beside}"
    assert duckdb.sql(
        f"select count(*) from (({one} except all {other}) union all ({other} except all {one}))"
    ).fetchall() == [(0,)]
    assert stored(tmp_path) == [(subject, result["records"], _packets(beside))]
    assert collect(server, subject, tmp_path)["records"] == 0
    assert stored(tmp_path)[0][1] == result["records"]


def _packets(table: str) -> int:
    (row,) = duckdb.sql(f"select sum(packetDeltaCount)::bigint from {table}").fetchall()
    return int(row[0])


def test_no_broker(trace, tmp_path, capsys, monkeypatch):
    """Nobody listens: the capture ends as ever, everything is in the spool, and the summary says why."""
    monkeypatch.setattr(nats, "LAST_S", 0.5)
    target = "nats://127.0.0.1:1/flows.a.b"
    line = ["capture", "-r", str(trace), "--handler", "flows", "--to", target, "--spool", str(tmp_path), "--json", "-"]
    assert main.run(line) == 0
    result = json.loads(capsys.readouterr().out)["handlers"][0]["result"]
    way = result["brokers"][target]
    assert (way["acknowledged"], way["spooled"]) == (0, result["records"])
    assert way["trouble"].startswith("nats://127.0.0.1:1: ")


def test_a_spool_is_sent_by_the_next_capture(server, subject, tmp_path):
    """What a capture left, the next one sends, with numbers that go on; what the bound drops is counted everywhere."""
    away = f"nats://127.0.0.1:1/{subject}"
    first = NatsOutput(away, Spooling(str(tmp_path / "spool"), 1 << 20))
    for number in range(0, 10_000, 1000):
        first.write(Records(words(1000, number)))
    assert first.lost == {"spool_full": 10_000 - first.stored}
    assert 1 << 20 >= first.spool.bytes() > (1 << 20) - 4096
    first.discard()
    second = NatsOutput(f"{server.url}/{subject}", Spooling(str(tmp_path / "spool"), 1 << 20))
    until(lambda: not second.spool.sealed(1), 100)
    second.write(Records(words(100, 10_000)))
    second.close()
    assert second.lost == {}
    assert second.way == {"acknowledged": first.stored + 100, "spooled": 0}
    (sensor,) = collect(server, subject, tmp_path)["sensors"]
    assert sensor["made"] == 10_100
    assert sensor["records"] == first.stored + 100
    assert sensor["dropped"] == {"spool_full": 10_000 - first.stored}
    assert (sensor["gaps"], sensor["spooled"]) == ([], 0)


def test_export_full_travels(server, subject, tmp_path):
    """Records that found no place before the output are made and dropped, too."""
    output = NatsOutput(f"{server.url}/{subject}", Spooling(str(tmp_path / "spool")))
    output.missed(7)
    output.write(Records(words(3)))
    output.close()
    assert output.lost == {}
    (sensor,) = collect(server, subject, tmp_path)["sensors"]
    assert (sensor["made"], sensor["records"], sensor["dropped"]) == (10, 3, {"export_full": 7})


def test_gaps_and_duplicates(server, subject, tmp_path, capsys):
    """A missing message is reported with its records, exactly; one that comes late fills the gap; twice is once."""
    publish(server, subject, [message(1, 0, 10), message(3, 30, 5), message(3, 30, 5)])
    (sensor,) = collect(server, subject, tmp_path)["sensors"]
    assert (sensor["gaps"], sensor["missing_messages"], sensor["missing_records"]) == ([[2, 2]], 1, 20)
    assert (sensor["records"], sensor["duplicates"]) == (15, 1)
    assert f"wirecap: {subject}: message 2 is missing; 20 records in all gaps so far" in capsys.readouterr().err
    publish(server, subject, [message(1, 0, 10), message(2, 10, 20)])
    (sensor,) = collect(server, subject, tmp_path)["sensors"]
    assert (sensor["gaps"], sensor["missing_records"], sensor["records"], sensor["duplicates"]) == ([], 0, 35, 2)
    assert stored(tmp_path) == [(subject, 35, 175)]


def test_messages_that_cannot_be_read(server, subject, tmp_path, capsys):
    """Foreign, damaged and newer messages are counted and named once, and the others are stored."""
    whole, given = message(1, 0, 10)
    newer = message(2, 10, 10, Wirecap_Schema="9")
    publish(server, subject, [(b"hello", {"x": "y"}), (whole[:300], given), (whole, given), newer])
    out = tmp_path / "c.json"
    line = ["collect", f"{server.url}/{subject}", "-w", f"{tmp_path}/flows/x.parquet", "--once", "--json", str(out)]
    assert main.run(line) == 1
    lines = capsys.readouterr().err.splitlines()
    assert f"wirecap: {subject}: a message cannot be read: no header 'Wirecap-Schema'" in lines
    assert lines[-1] == "wirecap: some messages could not be read (the lines above say why)"
    found = json.loads(out.read_text())
    assert found["unreadable"] == {subject: 3}
    assert found["records"] == 10


def test_another_stream(server, subject, tmp_path):
    """A broker that lost its stream begins at 1 again; what the dataset has is known by the sensor's numbers."""
    publish(server, subject, [message(1, 0, 10), message(2, 10, 10)])
    collect(server, subject, tmp_path)
    state = tmp_path / "flows" / STATE
    said = json.loads(state.read_text())
    state.write_text(json.dumps(said | {"stream": "another one", "position": 10**6}))
    (sensor,) = collect(server, subject, tmp_path)["sensors"]
    assert (sensor["records"], sensor["duplicates"]) == (20, 2)
    assert stored(tmp_path) == [(subject, 20, 100)]


@pytest.mark.parametrize("when", ["before the state", "before the names", "between two names", "after a link"])
def test_a_collector_killed_in_a_commit(when, tmp_path, monkeypatch):
    """Wherever a commit ends, the next collector has all of it or none of it."""
    pattern = str(tmp_path / "flows" / "%H.parquet")
    batch = Records(words(4000)).to_arrow()  # two hours
    dataset = Dataset(pattern)
    dataset.seen("s", "a").add(1)
    dataset.add("s", batch)
    real, calls = os.link, []

    def link(one: Any, other: Any) -> None:
        calls.append(other)
        if when == "before the names" or (when == "between two names" and len(calls) == 2):
            raise KeyboardInterrupt
        real(one, other)
        if when == "after a link":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        if when == "before the state":
            patch.setattr(json, "dump", _kill)
        with pytest.raises(KeyboardInterrupt):
            dataset.commit()
    dataset._lock.close()
    again = Dataset(pattern)
    there = when != "before the state"
    assert again.seen("s", "a").add(1) is not there
    if not there:
        again.add("s", batch)
    again.commit()
    again.close()
    assert stored(tmp_path) == [("s", 4000, 20_000)]
    assert not list(tmp_path.rglob("*.part"))


def _kill(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_capture_killed_while_it_writes(tmp_path):
    """A record that is cut short is left out, the whole ones are sent; numbers and sums go on."""
    one = Spool(tmp_path)
    one.put(words(3))
    os.write(one._file, bytes(100))
    one.close()
    two = Spool(tmp_path)
    assert (two.id, two.put_records, two.sealed(9)) == (one.id, 3, [1])
    segment = two.read(1)
    assert (segment.before, len(segment.words)) == (0, 3)
    two.put(words(2))
    two.seal()
    assert (two.read(2).before, len(two.read(2).words)) == (3, 2)
    for number in (1, 2):
        two.done(number)
    two.close()
    three = Spool(tmp_path)
    assert (three.put_records, three.spooled(), three.sealed(9)) == (5, 0, [3])
    three.close()


def test_a_full_disk_is_counted(tmp_path, monkeypatch):
    """The disk has no room for the spool: the records are dropped by name, and the capture goes on."""
    one = Spool(tmp_path)

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(spool.os, "write", full)
        assert one.put(words(5)) == 0
    assert one.dropped["spool_failed"] == 5
    assert one.put(words(5)) == 5
    one.close()


def test_two_of_a_kind(tmp_path):
    """Two captures with one spool, two collectors with one dataset, a spool of another version: refused."""
    one = Spool(tmp_path / "s")
    with pytest.raises(UsageError, match="another capture uses this spool"):
        Spool(tmp_path / "s")
    one.close()
    (tmp_path / "s" / f"{9:012}.flows").write_bytes((spool.MAGIC + 99).to_bytes(8, "little") + bytes(300))
    with pytest.raises(UsageError, match=r"000000000009\.flows is of another version of wirecap"):
        Spool(tmp_path / "s")
    dataset = Dataset(f"{tmp_path}/d/%H.parquet")
    with pytest.raises(UsageError, match="another wirecap collect writes there"):
        Dataset(f"{tmp_path}/d/%H.parquet")
    dataset.close()


def test_ranges():
    """In any order, with repetitions: what was seen, and what is missing."""
    seen = Seen("s", "a")
    assert [seen.add(number) for number in (5, 2, 3, 3, 9, 4, 5)] == [True, True, True, False, True, True, False]
    assert seen.ranges == [[2, 5], [9, 9]]
    assert seen.gaps() == [[1, 1], [6, 8]]
    assert seen.duplicates == 2


TO = "capture -r {trace} --handler flows --to"
REFUSED = {
    f"{TO} nats://me:secret@h/flows.a.b": "keep user names and passwords off the command line",
    f"{TO} nats://me@h/flows.a.b": "keep user names and passwords off the command line",
    f"{TO} nats://h/flows.>": "'flows.>' is not a subject to publish on",
    f"{TO} nats://h": "'' is not a subject to publish on",
    f"{TO} nats:///flows.a": "this is not the address of a broker",
    f"{TO} nats://h:99999/flows.a": "this is not the address of a broker",
    f"{TO} nats://h/flows.a --spool-limit 1k": "a spool needs at least 1 MiB",
    f"{TO} nats://h/flows.a --spool /proc/nonexistent": "cannot make a spool",
    f"{TO} - --spool x": "--spool is for flow records on their way to a broker",
    "collect nats://me:secret@h/flows.> -w x.parquet": "keep user names and passwords off the command line",
    "collect nats://h/flows.>.x -w x.parquet": "'flows.>.x' is not a subject",
    "collect nats://a..b/flows.> -w x.parquet": "this is not the address of a broker",
    "collect http://h/flows.> -w x.parquet": "this is not the address of a broker",
    "collect nats://h/flows.> -w x.csv": "a dataset is of Parquet files",
    "capture -r {trace} --handler flows --to nats://h/x": "'x' names no sensor",
    "capture -r {trace} --handler flows --to nats://h/triggers.a": "'triggers.a' names no sensor",
    "collect nats://h/flows.>": "no name is given for the files",
    "collect -w x.parquet": "collect takes the address of one broker",
    "collect nats://h/flows.> -w /proc/nonexistent/x.parquet": "no such file or directory",
}


@pytest.mark.parametrize("line", REFUSED)
def test_refused(line, trace, capsys):
    """One line with the way out, and never a password in it."""
    assert main.run(line.format(trace=trace).split()) == 2
    (*_, said) = capsys.readouterr().err.splitlines()
    assert REFUSED[line] in said
    assert said.endswith(")")
    assert "secret" not in said


def test_a_broker_that_is_not_there(tmp_path, capsys):
    """With --once that is an error."""
    assert main.run(["collect", "nats://127.0.0.1:1/flows.>", "-w", f"{tmp_path}/x.parquet", "--once"]) == 1
    assert "nats://127.0.0.1:1: " in capsys.readouterr().err.splitlines()[-1]


def test_credentials_of_the_environment(tmp_path):
    """What NATS's own command takes from the environment; files that are not there are named."""
    address = broker.parse("nats://h/flows.a", False)
    assert broker.login(address, {"NATS_USER": "me", "NATS_PASSWORD": "x"}) == {"user": "me", "password": "x"}
    assert broker.login(address, {"NATS_TOKEN": "t", "NATS_CREDS": ""}) == {"token": "t"}
    with pytest.raises(UsageError, match="NATS_CREDS=/nonexistent: this file cannot be read"):
        broker.login(address, {"NATS_CREDS": "/nonexistent"})
    with pytest.raises(UsageError, match="TLS with the files"):
        broker.login(address, {"NATS_CA": str(BENCH)})
    assert "tls" in broker.login(broker.parse("nats+tls://h/flows.a", False), {})


@pytest.mark.live
def test_kills_and_a_broker_that_goes_away(server, tmp_path):
    """bench/fleet.py in a short form: three sensors in namespaces, the broker killed and away, a sensor and the
    collector killed by SIGKILL and begun again; every packet that was sent is in the dataset once.  Two workers of a
    cluster find the same in what was archived."""
    pytest.importorskip("distributed")
    signal.alarm(LONG_S)  # seven programs that import much, and a cluster
    faulthandler.dump_traceback_later(LONG_S + 60, exit=True)
    command = [sys.executable, "-P", str(BENCH), "--packets", "1000", "--away", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG_S - 10, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in (1, 2, 3):
        assert f"flows.lab.sensor{number}: 4000 packets in the dataset" in done.stdout
    assert "8000 packets in the flows that two workers found" in done.stdout


def test_counters_and_triggers(server, subject, tmp_path, capsys):
    """A sensor publishes its counters; a trigger to its site reaches it, and it answers; errors are one line."""
    fired: list[str] = []
    place = subject.removeprefix("flows.")
    link = Link(f"{server.url}/{subject}", lambda: {"made": 3}, lambda name: fired.append(trigger_name(name)))
    link.start()

    async def first() -> Any:
        connection = await broker.connect(broker.parse(f"{server.url}/{subject}", False), "test")
        counters = await connection.subscribe(f"counters.{place}")
        message = await counters.next_msg(timeout=60)
        await connection.close()
        return json.loads(message.data)

    try:
        assert asyncio.run(first()) == {"sensor": subject, "made": 3}
        site, _ = place.split(".")
        until(lambda: main.run(["trigger", "alarm 17", "--to", f"{server.url}/triggers.{site}"]) == 0, 100)
        assert capsys.readouterr().out == f"{subject} saves what it keeps\n"
        assert set(fired) == {"alarm 17"}
        assert main.run(["trigger", "--to", f"{server.url}/triggers.nobody"]) == 1
        assert "no sensor that keeps packets answered" in capsys.readouterr().err
        assert main.run(["trigger", "--to", f"{server.url}/flows.a"]) == 2
        assert main.run(["trigger", "--all", "--to", f"{server.url}/triggers"]) == 2
    finally:
        link.end()
    assert not link.is_alive()


@pytest.mark.live
@pytest.mark.skipif(PURE, reason="the command runs compiled")
def test_a_trigger_over_the_broker_saves_what_a_capture_keeps(server, subject, testbed, tmp_path, capsys):
    """From end to end: a live capture that keeps its packets writes them when it is told so, and says by whom."""
    signal.alarm(LONG_S)  # its kernels may have to be compiled
    faulthandler.dump_traceback_later(LONG_S + 60, exit=True, file=sys.__stderr__)
    bed, out, summary = testbed(queues=1), tmp_path / "out.pcapng", tmp_path / "summary.json"
    site = subject.removeprefix("flows.").split(".")[0]
    line = [
        *fleet.WIRECAP, "capture", "--netns", bed.name, "-i", bed.nics[0].inside, "--handler", "flows",
        "--to", f"{server.url}/{subject}", "--spool", str(tmp_path / "spool"), "--keep", "1h", "-w", str(out),
        "--json", str(summary), "udp and dst port 9",
    ]  # fmt: skip
    with Child(line) as capture:
        capture.wait_for("^wirecap: capturing on", LONG_S / 2)
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(5))
        until(lambda: captured(capture) == 5)
        assert not out.exists()
        told = ["trigger", "alarm 17", "--to", f"{server.url}/triggers.{site}"]
        until(lambda: main.run(told) == 0, 100)  # until the capture listens
        assert f"{subject} saves what it keeps\n" in capsys.readouterr().out
        until(out.exists)
        ended = capture.end(signal.SIGINT, 100)
    assert ended.status == 0, ended.output
    found = json.loads(summary.read_text())
    assert {trigger["why"] for trigger in found["kept"]["triggers"]} == {"alarm 17"}
    assert found["packets"]["delivered"] == found["packets"]["written"] == 5
    assert len(read_pcapng(out)) == 5
    assert b"saved by wirecap: alarm 17 (" in out.read_bytes()
