"""What a running capture shows: counters that agree with the engine's, as a file and for Prometheus, until its end."""

from __future__ import annotations

import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families

import wirecap
from rig import Gate, Rig, free_port, until
from wirecap.cli import main
from wirecap.cli.top import Watch
from wirecap.config.bounds import Amount, Bounds
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.config.endpoint import Endpoint
from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError
from wirecap.files.retention import Retention
from wirecap.handlers import table
from wirecap.handlers.handler import Selection, Setting
from wirecap.handlers.pipeline import Pipeline
from wirecap.run import counting, publishing
from wirecap.run.counting import Counting
from wirecap.run.publishing import Publisher

DROPS = Path(__file__).parents[2] / "docs" / "drops.md"


@pytest.fixture
def port():
    """One that nobody listens on."""
    return free_port()


def publisher_of(rig, port=None, lines=None):
    endpoint = Endpoint("127.0.0.1", port) if port else None
    counting = Counting(rig.engine)
    return Publisher(counting, endpoint, [].append if lines is None else lines.append)


def scrape(port):
    """Every sample by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_a_scrape_says_what_the_engine_counts(folder, port, monkeypatch):
    """Received, delivered, dropped by name, chunks and depth of each queue, also of one that is stuck."""
    monkeypatch.setattr(publishing, "EVERY_S", 0.01)
    gate = Gate()
    with Rig(Pipeline([gate.handler]), queues=2, M=4, R=4) as rig:
        publisher = publisher_of(rig, port)
        publisher.start()

        def settled():
            """Whether all packets are in chunks or lost, and shown so: nothing changes while the gate is closed."""
            queue, depth = publisher.latest.queues[1], publisher.latest.consumers[1].depth
            ended = queue.received == 40 == queue.delivered + queue.pending + sum(queue.drops.values())
            lost = queue.drops["pool_exhausted"] == rig.drops()["pool_exhausted"]
            return ended and lost and queue.slots["captured"] and depth == rig.engine.depths()[1] > 0

        try:
            rig.inject_copies(1, 40)
            until(lambda: rig.drops().get("pool_exhausted"))
            until(settled)
            found = scrape(port)
            nic, lost = rig.source.queues[1].interface, rig.drops()["pool_exhausted"]
            assert found["wirecap_received_packets_total", nic, "1"] == 40
            assert found["wirecap_received_packets_total", nic, "0"] == 0
            assert found["wirecap_dropped_packets_total", nic, "1", "pool_exhausted"] == lost
            assert found["wirecap_dropped_packets_total", nic, "0", "pool_exhausted"] == 0
            assert found["wirecap_free_chunks", nic, "1"] < 4 == found["wirecap_free_chunks", nic, "0"]
            assert found["wirecap_queue_depth_chunks", nic, "1", "handler 1"] == rig.engine.depths()[1] > 0
            assert found["wirecap_slots", nic, "1", "captured"] > 0
            assert found["wirecap_pool_chunks",] == 4
            assert ("wirecap_handler_seconds_total", "handler 0") in found
            assert any(name[0] == "wirecap_build_info" for name in found)
            reasons = {key[3] for key in found if key[0] == "wirecap_dropped_packets_total"}
            assert reasons <= set(re.findall(r"^\| `(\w+)` \|", DROPS.read_text(), re.MULTILINE))
        finally:
            gate.let_go(1000)
            publisher.close()


def test_scrapes_while_the_capture_ends(folder, port, monkeypatch):
    """Until the last moment each scrape gets whole counters, or nobody answers; nothing goes wrong on either side."""
    monkeypatch.setattr(publishing, "EVERY_S", 0.001)
    outcomes, ended = [], threading.Event()

    def ask():
        while not ended.is_set():
            try:
                outcomes.append(len(scrape(port)))
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                outcomes.append(error)

    with Rig() as rig:
        publisher = publisher_of(rig, port)
        publisher.start()
        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        try:
            until(lambda: len(outcomes) > 10)
            rig.inject_copies(0, 20)
            publisher.end()
            rig.stop()
            publisher.close()
            until(lambda: any(not isinstance(each, int) for each in outcomes))
        finally:
            ended.set()
            for asker in askers:
                asker.join()
    answered = {each for each in outcomes if isinstance(each, int)}
    assert len(answered) == 1
    assert not list(folder.glob("*wirecap*"))


def test_a_port_in_use_is_a_line(folder, monkeypatch):
    """The capture goes on, and is shown in the file; once the port is free, metrics are served."""
    monkeypatch.setattr(publishing, "EVERY_S", 0.01)
    monkeypatch.setattr(publishing, "RETRY_S", 0.01)
    with socket.socket() as other, Rig() as rig:
        other.bind(("127.0.0.1", 0))
        other.listen()
        lines, port = [], other.getsockname()[1]
        publisher = publisher_of(rig, port, lines)
        publisher.start()
        try:
            assert lines == [
                f"--metrics 127.0.0.1:{port}: address already in use: the capture goes on, and tries again"
            ]
            rig.inject_copies(0, 5)
            rig.done(5)
            assert len(Watch(folder).look()) == 1
            other.close()
            until(lambda: lines[1:] == [f"--metrics 127.0.0.1:{port}: served from now on"])
            assert scrape(port)
        finally:
            publisher.close()


def test_a_folder_that_is_not_there_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WIRECAP_RUNTIME_DIR", str(tmp_path / "none"))
    with Rig() as rig:
        lines = []
        publisher = publisher_of(rig, lines=lines)
        publisher.start()
        publisher.close()
    assert lines == [f"wirecap top will not show this capture: {tmp_path}/none: no such file or directory"]


def test_a_client_that_says_nothing_keeps_nobody(folder, port):
    """Neither another scrape nor the end waits for it."""
    with Rig() as rig, socket.socket() as silent:
        publisher = publisher_of(rig, port)
        publisher.start()
        silent.connect(("127.0.0.1", port))
        try:
            assert scrape(port)
        finally:
            publisher.close()
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        scrape(port)


def test_processor_time_is_the_threads_own(folder):
    """What a handler thread computes is counted for that thread, by the kernel, without its doing."""
    handler = table.make(HandlerSpec.parse("pkt_handler:x=3000"), Setting(Selection(), "", None))
    with Rig(Pipeline([handler]), queues=2, M=16, R=16) as rig:
        counting, done = Counting(rig.engine), 0
        before = after = counting()

        def shows():
            """Handle more packets: the other thread looks round as long as this one waits for its CPU."""
            nonlocal done, after
            rig.inject_copies(1, 200)
            done += 200
            rig.done(done)
            after = counting()
            spent = [b.seconds - a.seconds for a, b in zip(before.consumers, after.consumers, strict=True)]
            return spent[1] > 3 * spent[0]

        until(shows)
    assert counting().consumers[1].seconds >= after.consumers[1].seconds  # its thread has ended


def test_bounds_that_change_are_shown(folder, tmp_path, monkeypatch):
    """After a reload, those that hold now."""
    monkeypatch.setattr(counting, "LOOK_S", -1.0)
    write = WriteConfig(path=str(tmp_path / "x.pcap"), bounds=Bounds(limit=Amount("9MiB", 9 << 20)))
    kept = Retention(write.bounds, write, [write.path])
    writer = SimpleNamespace(packets_written=0, bytes_written=0, files_written=0, retention=kept, serving="",
                             serving_now=lambda: None)  # fmt: skip
    with Rig() as rig:
        counters = Counting(rig.engine, write, writer)
        assert counters().disk.limit == 9 << 20
        kept.change(Bounds(limit=Amount("7MiB", 7 << 20), max_age_ns=10**9))
        assert (counters().disk.limit, counters().disk.max_age_ns) == (7 << 20, 10**9)
    kept.close()


ENDPOINTS = {
    "9464": ("127.0.0.1", 9464), "0.0.0.0:80": ("0.0.0.0", 80), "[::1]:9464": ("::1", 9464),
    "sensor.example:9464": ("sensor.example", 9464),
}  # fmt: skip


@pytest.mark.parametrize("text", ENDPOINTS)
def test_endpoints(text):
    found = Endpoint.parse(text)
    assert (found.host, found.port) == ENDPOINTS[text]
    assert Endpoint.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", ":9464", "127.0.0.1", "127.0.0.1:", "::1:9464", "x:0", "x:65536", "a/b:1", "[]:1", "a..b:1", "9" * 5000],
)
def test_endpoints_that_are_none(text):
    with pytest.raises(UsageError):
        Endpoint.parse(text)


def test_a_file_has_no_metrics(tmp_path, capfd):
    """Refused in a line before anything begins; so is an endpoint that is none, wherever it stands."""
    with pytest.raises(UsageError, match="--metrics is for interfaces"):
        CaptureConfig(read_file="x.pcap", metrics=Endpoint("127.0.0.1", 9464))
    config = tmp_path / "x.toml"
    config.write_text('interface = "lo"\nmetrics = "nine"\n')
    assert main.run(["capture", "--config", str(config)]) == 2
    line = capfd.readouterr().err
    assert line.startswith(f"wirecap: {config}:2: metrics: 'nine' is not an address and port (write it as 9464")
    config.write_text('interface = "lo"\nmetrics = 9464\n')
    assert main.run(["capture", "--config", str(config), "--check-config"]) == 0


@pytest.mark.live
def test_a_program_that_captures_is_watched(testbed, folder, port):
    """``wirecap.open`` shows itself, too, until it is closed."""
    bed = testbed(queues=1)
    with wirecap.open(bed.nics[0].inside, netns=bed.name, metrics=f"127.0.0.1:{port}"):
        [found] = Watch(folder).look()
        assert found.now.interfaces == [bed.nics[0].inside]
        assert scrape(port)["wirecap_received_packets_total", bed.nics[0].inside, "0"] == 0
    assert Watch(folder).look() == []


@pytest.mark.live
def test_a_capture_goes_on_without_its_port(testbed, folder, capfd):
    """The command says so in a line, before it says that it captures: who reads that need not wait for metrics."""
    bed = testbed(queues=1)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        options = ["--netns", bed.name, "-i", bed.nics[0].inside, "--duration", "0.2", "--metrics", str(port)]
        assert main.run(["capture", *options]) == 0
    lines = capfd.readouterr().err.splitlines()
    why = "address already in use: the capture goes on, and tries again"
    told = [line for line in lines if line.startswith(("wirecap: --metrics", "wirecap: capturing on"))]
    assert told[0] == f"wirecap: --metrics 127.0.0.1:{port}: {why}"
    assert len(told) == 2
    assert "0 packets captured" in lines


def test_counting_that_fails_is_a_line(folder, monkeypatch):
    """Nothing that goes wrong with what is shown ends a capture, or prints more than a line."""
    monkeypatch.setattr(publishing, "EVERY_S", 0.001)
    with Rig() as rig:
        lines = []
        publisher = publisher_of(rig, lines=lines)
        publisher.start()
        monkeypatch.setattr(rig.engine, "depths", lambda: 1 // 0)
        until(lambda: lines)
        monkeypatch.undo()
        rig.inject_copies(0, 5)
        rig.done(5)
        publisher.close()
    assert lines == ["wirecap top and --metrics stand still: integer division or modulo by zero: the capture goes on"]
