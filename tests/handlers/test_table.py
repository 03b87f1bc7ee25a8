"""The tables of handlers and of sources: what is in them, what is refused, and how something new gets in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import wirecap
from wirecap.cli import main
from wirecap.config.handlers import HANDLERS
from wirecap.config.sources import SOURCES, SourceKind
from wirecap.handlers.handler import Handler
from wirecap.handlers.table import _named

HERE = Path(__file__).parent


@pytest.fixture
def toys(monkeypatch):
    """The toys' module can be imported, and has its two lines in the tables."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setitem(HANDLERS, "toy", "toys:ToyHandler")
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


@pytest.mark.parametrize("name", sorted(HANDLERS))
def test_every_handler_of_the_table_is_there(name):
    """Each line names a class of Handler, which has that name."""
    kind = _named(name)
    assert issubclass(kind, Handler)
    assert kind.name == name


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
