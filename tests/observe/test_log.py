"""--log-format json: each line on standard error is one JSON object, whatever happens."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from rig import PCAP_HEADER, pcap_records
from wirecap.cli import main
from wirecap.kernels.base import cache
from wirecap.kernels.base.jit import PURE
from wirecap.observe import log

pytestmark = pytest.mark.skipif(PURE, reason="the commands run compiled")


@pytest.fixture(autouse=True)
def _put_back(monkeypatch):
    monkeypatch.setattr(cache, "say", cache.say)
    yield
    log.use("text")


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.pcap"
    path.write_bytes(PCAP_HEADER + pcap_records(20))
    return path


def objects(text):
    """The lines as objects, each with its time, level, event and message."""
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        when = datetime.strptime(each["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert abs((datetime.now(UTC) - when).total_seconds()) < 600
        assert each["level"] in ("info", "warning", "error")
        assert each["event"]
        assert not each["message"].startswith("wirecap:")
    return found


def test_a_capture_from_a_file(trace, capfd):
    """The opening line and the counters are objects, with the numbers beside the words."""
    assert main.run(["capture", "-r", str(trace), "--log-format", "json"]) == 0
    shown = capfd.readouterr()
    assert shown.out == ""
    found = objects(shown.err)
    last = found[-1]
    assert [each["files"] for each in found if each["event"] == "started"] == [[str(trace)]]
    assert last["event"] == "ended"
    assert last["packets"]["delivered"] == 20
    assert last["message"].startswith("20 packets read; ")


@pytest.mark.parametrize(
    "line",
    [
        "--log-format json -i",
        "-i nonesuch --log-format=json",
        "--nonesuch --log-format json",
        "--log-format json -r {trace} tcp prt 80",
        "--config {folder}/wrong.toml",
        "--config {folder}/wrong.toml --log-format json",
    ],
)
def test_errors_too(line, trace, tmp_path, capfd):
    """Whatever is wrong, and wherever the format stands: one object with the reason, the way out and the status."""
    (tmp_path / "wrong.toml").write_text('log-format = "json"\nhander = "count"\n')
    arguments = line.format(trace=trace, folder=tmp_path).split()
    status = main.run(["capture", *arguments])
    (told,) = objects(capfd.readouterr().err)
    assert (told["level"], told["event"], told["status"]) == ("error", "error", status)
    assert told["reason"]
    assert told["hint"]
    assert status == 2


def test_the_next_command_logs_text_again(trace, capfd):
    """The format is one run's, and another word for it is refused."""
    main.run(["capture", "--nonesuch", "--log-format", "json"])
    capfd.readouterr()
    assert main.run(["capture", "-r", str(trace), "--log-format", "xml"]) == 2
    assert capfd.readouterr().err.startswith("wirecap: ")


def test_a_note_about_the_cache(trace, capfd, monkeypatch):
    """Why kernels are compiled again is an object, too."""
    monkeypatch.setattr(cache, "CACHE_NOTE", "cannot be written to")
    assert main.run(["capture", "-r", str(trace), "--log-format", "json", "-q"]) == 0
    cache.tell()
    *_, told = objects(capfd.readouterr().err)
    assert (told["event"], told["level"]) == ("cache", "warning")


@pytest.mark.live
def test_a_service_from_start_to_end(testbed, tmp_path):
    """A live capture with a warning, two reloads of which one is refused, counters and an end: all are objects."""
    bed = testbed(queues=1)
    config = tmp_path / "eth1.toml"
    settings = f'interface = "{bed.nics[0].inside}"\nnetns = "{bed.name}"\nlog-format = "json"\nmode = "advanced"\n'
    config.write_text(settings + 'filter = "udp"\n')
    command = [sys.executable, "-P", "-m", "wirecap", "capture", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        try:
            lines = []

            def until(event):
                while not lines or lines[-1]["event"] != event:
                    line = running.stderr.readline()
                    assert line, lines
                    lines.extend(objects(line))
                return lines[-1]

            started = until("started")
            assert started["interfaces"] == [bed.nics[0].inside]
            assert started["engine"] == "xdp"
            assert until("warning")["level"] == "warning"  # nobody to offload to
            config.write_text(settings.replace("json", "text"))
            running.send_signal(signal.SIGHUP)
            assert until("reload_refused")["level"] == "warning"
            config.write_text(settings + 'filter = "tcp"\n')
            running.send_signal(signal.SIGHUP)
            assert until("reloaded")["file"] == str(config)
            running.send_signal(signal.SIGUSR1)
            assert until("counters")["packets"]["dropped"] == 0
            running.send_signal(signal.SIGINT)
            assert until("ended")["packets"]["received"] >= 0
            assert running.wait(60) == 0
            assert objects(running.stderr.read()) == []
        finally:
            running.kill()


@pytest.mark.live
def test_forward_too(testbed, capfd):
    """forward logs the same objects, and --quiet leaves the last one."""
    bed = testbed(queues=1, nics=2)
    line = ["forward", "--netns", bed.name, *(nic.inside for nic in bed.nics), "--duration", "0.1"]
    assert main.run([*line, "--log-format", "json"]) == 0
    events = [each["event"] for each in objects(capfd.readouterr().err)]
    assert "started" in events[:-1]  # a fresh machine compiles before
    assert events[-1] == "ended"
    assert main.run([*line, "--log-format", "json", "-q"]) == 0
    assert [each["event"] for each in objects(capfd.readouterr().err)] == ["ended"]


def test_control_characters_of_others():
    """What a client or a server says cannot move a terminal's cursor; letters of any language stay."""
    assert log.shown("client 'ü\x1b[2J\r\x9b日' \ud800\n\tnext") == "client 'ü\\x1b[2J\\r\\x9b日' \\ud800\n\tnext"
