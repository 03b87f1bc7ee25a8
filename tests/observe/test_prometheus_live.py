"""Debian's Prometheus watches a capture that loses packets and a forwarder: every query of the dashboard returns data,
every alert fires."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from forward_rig import Running
from rig import free_port, until
from states import counters_of, queue_of
from wirecap.cli import main
from wirecap.cli.metrics import text
from wirecap.cli.top import Watch
from wirecap.lab import process
from wirecap.observe.counters import DiskCounters, OutputCounters
from wirecap.observe.metrics import Collector
from wirecap.traffic import synthetic

EVERY = "200ms"
VARIABLES = {"$__rate_interval": "5s", "$job": "wirecap", "$instance": ".*", "$interface": ".*"}
"""What Grafana puts into a query."""
RULE_TESTS = """
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - series: 'wirecap_dropped_packets_total{instance="a", interface="eth1", queue="0", reason="pool_exhausted"}'
        values: '0x8 7x60'
      - series: 'wirecap_dropped_packets_total{instance="a", interface="eth1", queue="0", reason="unread_at_stop"}'
        values: '0x8 9x60'
      - series: 'wirecap_free_chunks{job="wirecap", instance="a", interface="eth1", queue="0"}'
        values: '100x8 19x8 100x60'
      - series: 'wirecap_free_chunks{job="wirecap", instance="a", interface="eth1", queue="1"}'
        values: '100x8 19x2 100x60'
      - series: 'wirecap_pool_chunks{job="wirecap", instance="a"}'
        values: '100x80'
      - series: 'up{job="wirecap", instance="a"}'
        values: '1x8 0x8 1x60'
      - series: 'up{job="wirecap", instance="b"}'
        values: '1x8 0x2 1x60'
    alert_rule_test:
      - {alertname: WirecapDrops, eval_time: 2m, exp_alerts: []}
      - alertname: WirecapDrops
        eval_time: 3m
        exp_alerts:
          - exp_labels: {severity: critical, instance: a, interface: eth1, reason: pool_exhausted}
            exp_annotations:
              summary: "a drops packets of eth1: pool_exhausted"
              description: "7 packets in five minutes; docs/drops.md says what helps."
      - {alertname: WirecapDrops, eval_time: 8m, exp_alerts: []}
      - {alertname: WirecapPoolNearlyFull, eval_time: 3m, exp_alerts: []}
      - alertname: WirecapPoolNearlyFull
        eval_time: 3m30s
        exp_alerts:
          - exp_labels: {severity: warning, job: wirecap, instance: a, interface: eth1, queue: "0"}
            exp_annotations:
              summary: "a: the pool of eth1 queue 0 is nearly full"
              description: "19% of its chunks are free: the handler is slower than the traffic."
      - {alertname: WirecapPoolNearlyFull, eval_time: 5m, exp_alerts: []}
      - {alertname: WirecapDown, eval_time: 3m, exp_alerts: []}
      - alertname: WirecapDown
        eval_time: 3m30s
        exp_alerts:
          - exp_labels: {severity: critical, job: wirecap, instance: a}
            exp_annotations:
              summary: "No capture answers at a"
              description: "It has ended, or it has no metrics: its log says why."
      - {alertname: WirecapDown, eval_time: 5m, exp_alerts: []}
"""
"""Each alert at the moments around that from which it fires, and after it; what is short or expected fires none."""


def queries():
    """Each query of the dashboard, by panel, as Grafana would send it."""
    found = {}
    for panel in json.loads(text("dashboard.json"))["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = query
    return found


class Prometheus:
    """A server with these targets and our rules, as often as EVERY and without the time that an alert waits."""

    def __init__(self, folder, ports):
        self.port = free_port()
        rules = re.sub(r"^ +for: .*\n", "", text("alerts.yml"), flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(rules)
        targets = [f"127.0.0.1:{port}" for port in ports]
        (folder / "prometheus.yml").write_text(json.dumps({
            "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": "wirecap", "static_configs": [{"targets": targets}]}],
        }))  # fmt: skip
        self.child = process.Child([
            "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ])  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.end(signal.SIGKILL)

    def get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, query):
        return self.get("query", query=query)["result"]

    def firing(self):
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}


def send(nic, ended):
    """Some thousand packets a second, until told otherwise."""
    frame = synthetic.udp(60)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((nic.outside, 0))
        while not ended.is_set():
            for _ in range(50):
                sender.send(frame)
            time.sleep(0.01)


@pytest.mark.live("prometheus")
def test_prometheus_sees_it_all(testbed, folder, tmp_path):
    bed = testbed(queues=2, nics=3)
    losing, near, far = bed.nics
    ports, ended = (free_port(), free_port()), threading.Event()
    command = [
        sys.executable, "-m", "wirecap", "capture", "--netns", bed.name, "-i", losing.inside, "-M", "4", "-R", "4",
        "--handler", "pkt_handler:rate=50", "-w", str(tmp_path / "x.pcapng"), "--limit", "100MB",
        "--metrics", str(ports[0]),
    ]  # fmt: skip
    with ExitStack() as stack:
        server = stack.enter_context(Prometheus(tmp_path, ports))  # it looks for its targets after five seconds
        capture = process.Child(command)
        stack.callback(capture.end, signal.SIGKILL)
        capture.wait_for("^wirecap: capturing", 90)
        stack.enter_context(Running(bed, near.inside, far.inside, "--metrics", str(ports[1])))
        server.child.wait_for("Server is ready to receive web requests", 60)
        until(lambda: len(server.query("up == 1")) == 2)
        senders = [threading.Thread(target=send, args=(nic, ended)) for nic in (losing, near)]
        for sender in senders:
            sender.start()
        stack.callback(lambda: [sender.join() for sender in senders])
        stack.callback(ended.set)
        for panel, query in queries().items():
            rows = until(lambda query=query: server.query(query), 60)
            assert all(row["value"][1] != "NaN" for row in rows), panel
        for query in ("sum(wirecap_received_packets_total) > 0", "sum(wirecap_forwarded_packets_total) > 0",
                      "sum(wirecap_sent_packets_total) > 0", "sum(wirecap_written_bytes_total) > 0"):  # fmt: skip
            until(lambda query=query: server.query(query), 60)
        until(lambda: server.firing() >= {"WirecapDrops", "WirecapPoolNearlyFull"})
        until(lambda: "WirecapDown" not in server.firing())  # a scrape that took 200 ms has one fire
        watch = Watch(folder)
        assert {each.now.command for each in watch.look()} == {"capture", "forward"}
        until(lambda: all(each.received > 0 for each in watch.look()))
        capture.end(signal.SIGKILL)
        until(lambda: "WirecapDown" in server.firing())
        assert [each.now.command for each in watch.look()] == ["forward"]
        assert watch.notes == [f"capture {capture.pid} on {losing.inside} has died"]


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: Debian's package prometheus")
def test_when_alerts_fire(tmp_path, capfd):
    """The rules are as promtool wants them; each alert fires when it should, and stops."""
    assert main.run(["metrics", "alerts"]) == 0
    (tmp_path / "alerts.yml").write_text(capfd.readouterr().out)
    (tmp_path / "tests.yml").write_text(RULE_TESTS)
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "tests.yml"]):
        done = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: Debian's package prometheus")
def test_metrics_are_named_as_prometheus_wants_them():
    """promtool has nothing to say about names, units, types and help; the dashboard asks for nothing else."""
    disk, outputs = DiskCounters("x", 1, 2, 3, 4, 5, 6, 7), [OutputCounters("eth2", 0, 1, {})]
    state = counters_of(queue_of(pool_exhausted=0), disk=disk, outputs=outputs)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(lambda: state))
    exposed = generate_latest(registry)
    done = subprocess.run(["promtool", "check", "metrics"], input=exposed, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    asked = set(re.findall(r"wirecap_\w+", text("dashboard.json") + text("alerts.yml")))
    assert asked <= {sample.decode() for sample in re.findall(rb"^\w+", exposed, re.MULTILINE)}


def test_the_dashboard_is_grafanas(capfd):
    """What the command prints is JSON with a query in each panel, no panel over another, every metric ours."""
    assert main.run(["metrics", "dashboard"]) == 0
    found = json.loads(capfd.readouterr().out)
    taken = set()
    for panel in found["panels"]:
        assert panel["targets"]
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells
    assert max(x for x, _ in taken) == 23
    assert len({panel["id"] for panel in found["panels"]}) == len(found["panels"])
