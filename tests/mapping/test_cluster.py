"""``wirecap map --on``: a real Dask scheduler and workers, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from map_rig import HANDLERS, frame, pcap

from rig import until
from wirecap.cli import main

pytest.importorskip("distributed")
START_S = 100
PYTHON = [sys.executable, "-P", "-m"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """(the scheduler's address, what starts a worker)."""
    folder = tmp_path_factory.mktemp("dask")
    about, running = folder / "scheduler.json", []
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}

    def start(*words):
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen([*PYTHON, *words], cwd=folder, env=environment, stdout=log, stderr=log)
        running.append(process)
        return process

    try:
        start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
              "--scheduler-file", str(about))  # fmt: skip
        address = until(lambda: address_in(about), START_S)

        def worker(name):
            return start(
                "distributed.cli.dask_worker",
                address,
                "--nthreads",
                "1",
                "--no-nanny",
                "--no-dashboard",
                "--name",
                name,
            )

        yield address, worker
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def address_in(about: Path) -> str | None:
    """The scheduler's address; None as long as its file is not whole."""
    try:
        return json.loads(about.read_text())["address"]
    except (FileNotFoundError, ValueError):
        return None


def wait_for(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False, timeout=START_S) as client:
        client.wait_for_workers(count, timeout=START_S)


@pytest.mark.filterwarnings("ignore")
def test_a_cluster(cluster, tmp_path, capfd):
    """The bytes are those of this machine's processes, also where a worker is killed; none at all is one line."""
    address, worker = cluster
    for number in range(3):
        sizes = [999 if (number, n) == (1, 100) else 300 + number for n in range(600)]
        pcap(tmp_path / f"{number}.pcap", [frame(size, n) for n, size in enumerate(sizes)])
    (tmp_path / "mark").mkdir()
    mark = f"{HANDLERS}:deadly:mark={tmp_path}/mark,times="
    line = ["--part", "64KiB", "-q", str(tmp_path)]
    assert main.run(["map", mark + "0", *line]) == 0
    wanted = capfd.readouterr().out
    assert json.loads(wanted)["deadly"] == {"300": 600, "301": 599, "999": 1, "302": 600}
    assert main.run(["map", "count", *line, "--on", address]) == 1
    assert "the scheduler has no workers" in capfd.readouterr().err
    worker("one")
    worker("two")
    wait_for(address, 2)
    assert main.run(["map", mark + "0", *line, "--on", address]) == 0
    assert capfd.readouterr().out == wanted
    out = tmp_path / "out.json"
    assert main.run(["map", mark + "1", *line, "--on", address, "--json", str(out)]) == 0
    assert capfd.readouterr().out == wanted
    assert len(list((tmp_path / "mark").iterdir())) == 1
    assert json.loads(out.read_text())["packets"]["received"] == 1800


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("--on nowhere", 2, "this is not the address of a Dask scheduler"),
        ("--on tcp://127.0.0.1:1 --workers 2", 2, "a cluster has its own workers"),
    ],
)
def test_mistakes(tmp_path, capfd, line, status, told):
    """Each is one line."""
    file = pcap(tmp_path / "x.pcap", [frame(100)])
    assert main.run(["map", "count", str(file), *line.split()]) == status
    shown = capfd.readouterr().err
    assert told in shown
    assert len(shown.splitlines()) == 1


def test_dask_does_not_look_at_a_part():
    """While a part is read its thread is none that Dask's profiler looks at; then it is again, whatever happened."""
    from wirecap.mapping.cluster import unwatched

    class Worker:
        active_threads_lock = threading.Lock()
        active_threads = {threading.get_ident(): "ours", 1: "another"}  # noqa: RUF012

    before = dict(Worker.active_threads)
    with suppress(OSError), unwatched(Worker()):
        assert Worker.active_threads == {1: "another"}
        raise OSError
    assert Worker.active_threads == before
    with unwatched(object()):  # another release of Dask
        pass


def test_other_versions(monkeypatch):
    """A worker with another wirecap, or without one, is named before anything is sent."""
    from wirecap.errors import UsageError
    from wirecap.mapping.cluster import Cluster, facts

    class Client:
        def __init__(self, found):
            self.found = found

        def run(self, function, on_error):
            return {"tcp://10.0.0.1:1": self.found}

    one = object.__new__(Cluster)
    for found, told in (
        ({**facts(), "wirecap": "0.0.1"}, "has wirecap 0.0.1, and here it is"),
        (ImportError("no wirecap"), "cannot import wirecap"),
    ):
        one._client = Client(found)
        with pytest.raises(UsageError, match=told):
            one._check("tcp://10.0.0.2:8786")
    one._client = Client(facts())
    one._check("tcp://10.0.0.2:8786")
