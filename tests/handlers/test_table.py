"""The tables of handlers and of sources: what is in them, what is refused, and how something new gets in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import wirecap
from wirecap.cli import main
from wirecap.cli.remedies import remedy
from wirecap.cli.unit import Service
from wirecap.config.capture import CaptureConfig
from wirecap.config.handlers import HANDLERS, HandlerKind
from wirecap.config.sources import SOURCES, SourceKind
from wirecap.config.specs import QueueSpec
from wirecap.handlers.handler import Handler
from wirecap.handlers.table import _class_at
from wirecap.linux import capabilities

HERE = Path(__file__).parent


@pytest.fixture
def toys(monkeypatch):
    """The toys' module can be imported, and has its two lines in the tables."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setitem(HANDLERS, "toy", HandlerKind("toys:ToyHandler"))
    monkeypatch.setitem(SOURCES, "toy", SourceKind("toys:ToySource"))
    yield
    sys.modules.pop("toys", None)


def test_a_source_and_a_handler_from_outside_are_a_file_and_a_line_each(toys):
    """What is registered from outside captures, is run by name, and has its result and its name in the summary."""
    outcome = wirecap.capture("toy0", "toy", "count", engine="toy", count=10)
    assert outcome.results == [600, None]
    assert outcome.summary["engine"] == "toy"
    assert outcome.summary["packets"]["delivered"] == outcome.summary["packets"]["received"] == 10
    assert outcome.summary["handlers"] == [{"name": "toy", "result": 600, "failures": 0}]


def test_what_a_source_can_do_is_in_its_line(toys, monkeypatch):
    """--busy-poll, the capabilities of a service and what helps against drops follow the table, not a source's name."""
    asked = {"sources": (QueueSpec("toy0"),), "engine": "toy"}
    with pytest.raises(wirecap.UsageError, match="--busy-poll does not apply to the toy engine"):
        CaptureConfig(**asked, busy_poll=True)
    summary = {"engine": "toy", "mode": "basic", "queues": 1, "R": 100}
    assert "raise -R (now 100)" in remedy("pool_exhausted", summary, {"ring_cells": 4096})
    service = Service("toy", Path("toy.toml"), {}, CaptureConfig(**asked))
    assert service.capabilities() == list(capabilities.PACKET)

    able = SourceKind("toys:ToySource", runs_xdp=True, busy_polls=True, ring_is_pool=True)
    monkeypatch.setitem(SOURCES, "toy", able)
    assert CaptureConfig(**asked, busy_poll=True).busy_poll
    assert "raise --ring (now 4096)" in remedy("pool_exhausted", summary, {"ring_cells": 4096})
    assert set(service.capabilities()) >= set(capabilities.XDP)


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_every_handler_of_the_table_is_there(name):
    """Each line names a class of Handler, which has that name, and says of it what is so."""
    for home in filter(None, (HANDLERS[name].home, HANDLERS[name].keeping)):
        kind = _class_at(home)
        assert issubclass(kind, Handler)
        assert kind.name == name
        assert kind.exports == HANDLERS[name].exports


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_a_users_handler_may_have_any_name(name, two_packets, tmp_path, capsys):
    """A user's own handler that is called as one of ours is still the user's: in Python, by its file, and mapped."""
    sizes = []

    def seen(timestamp_ns, data):
        sizes.append(len(data))

    seen.__name__ = name
    assert len(wirecap.capture(str(two_packets), seen, "count").results) == 2
    assert sizes == [60, 60]
    path = tmp_path / "mine.py"
    path.write_text(f"def {name}(chunk, state):\n    state.packets += len(chunk)\n")
    for line in (["capture", "-r", str(two_packets), "--handler"], ["map", "--workers", "1", "-q"]):
        files = [str(two_packets)] if line[0] == "map" else []
        assert main.run([*line, f"{path}:{name}", *files]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out) == {name: {"packets": 2}}, told.err


def test_write_without_a_file_is_refused(two_packets, capsys):
    """The handler write needs a file: Python and the command line say so alike, before anything is opened."""
    with pytest.raises(wirecap.UsageError, match="the handler write needs a file to write to") as refused:
        wirecap.capture(str(two_packets), "write")
    assert "add -w FILE" in refused.value.hint
    assert main.run(["capture", "-r", str(two_packets), "--handler", "write"]) == 2
    assert capsys.readouterr().err.splitlines() == [f"wirecap: {refused.value.message} ({refused.value.hint})"]


def test_forward_writes_no_file(capsys):
    """forward refuses the handler write, with the way out, before it looks at an interface."""
    assert main.run(["forward", "nowhere0", "nowhere1", "--handler", "write"]) == 2
    assert capsys.readouterr().err.startswith("wirecap: forward cannot write a file (capture on the outgoing side:")


def test_the_handler_write_is_what_w_means(two_packets, tmp_path):
    """--handler write beside -w writes each packet once."""
    for number, handlers in enumerate([[], ["write"], ["count", "write"]]):
        path = tmp_path / f"{number}.pcapng"
        outcome = wirecap.capture(str(two_packets), *handlers, write=str(path))
        assert outcome.summary["packets"]["written"] == 2
        assert path.stat().st_size == (tmp_path / "0.pcapng").stat().st_size


@pytest.fixture
def two_packets(tmp_path):
    """A pcap file with two packets."""
    header = (0xA1B2C3D4).to_bytes(4, "little") + bytes([2, 0, 4, 0]) + bytes(8) + b"\xff\xff\0\0\1\0\0\0"
    record = bytes(8) + (60).to_bytes(4, "little") * 2 + bytes(60)
    path = tmp_path / "two.pcap"
    path.write_bytes(header + record * 2)
    return path
