"""Arguments of the Python interface that are of the wrong type: usage errors with the value and the way out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import wirecap
from rig import counted, time_limit
from wirecap.config.arguments import KINDS, buddies_of
from wirecap.config.capture import CaptureOptions
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError

__all__ = ["time_limit"]

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"M": "a"}, "M must be a whole number, not 'a'"),
    ({"M": None}, "M must be a whole number, not None"),
    ({"R": 1.5}, "R must be a whole number, not 1.5"),
    ({"T": "60"}, "T must be a whole number, not '60'"),
    ({"count": "5"}, r"count must be a whole number, not '5' \(leave count out"),
    ({"count": True}, "count must be a whole number, not True"),
    ({"duration_s": "5"}, "duration_s must be a number, not '5'"),
    ({"duration_s": math.nan}, "duration_s must be a number, not nan"),
    ({"duration_s": math.inf}, "duration_s must be a number, not inf"),
    ({"filter": 5}, "filter must be text, not 5"),
    ({"filter": None}, "filter must be text, not None"),
    ({"mode": ["basic"]}, "mode must be text"),
    ({"take_over": "no"}, "take_over must be True or False, not 'no'"),
    ({"cpus": 3}, "cpus must be a list of whole numbers, not 3"),
    ({"cpus": "0-3"}, "cpus must be a list of whole numbers, not '0-3'"),
    ({"buddies": "eth1"}, "buddies must be groups of interfaces, not 'eth1'"),
    ({"buddies": ["eth1"]}, "buddies must be groups of interfaces"),
    ({"metrics": 9464}, "metrics must be an address and port, not 9464"),
    ({"metrics": "nine"}, "'nine' is not an address and port"),
    ({"decisions_file": 5}, "decisions_file must be a path, not 5"),
    ({"html_file": 5}, "html_file must be a path, not 5"),
]


@pytest.mark.parametrize(("given", "message"), WRONG, ids=[str(given) for given, _ in WRONG])
@pytest.mark.parametrize("call", [wirecap.open, wirecap.capture])
def test_options_of_the_wrong_type(call, given, message):
    """Each is refused before anything is opened."""
    with pytest.raises(UsageError, match=message):
        call("eth1", **given)


@pytest.mark.parametrize("source", [None, 5, b"eth1", ["eth1", None], [None]])
@pytest.mark.parametrize("call", [wirecap.open, wirecap.capture])
def test_sources_of_the_wrong_type(call, source):
    """What is neither text nor a path is named."""
    with pytest.raises(UsageError, match=r"is neither an interface nor a file .write .eth1., "):
        call(source)


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("x.pcap", {"filesize": 3}, "unknown option 'filesize'"),
        ("x.pcap", {"file_byte": 3}, "did you mean file_bytes"),
        ("x.pcap", {"file_s": "5"}, "file_s must be a number, not '5'"),
        ("x.pcap", {"file_bytes": 1.5}, "file_bytes must be a positive number, not 1.5"),
        ("x.pcap", {"link_type": "ethernet"}, "link_type must be a whole number, not 'ethernet'"),
        ("x.pcapng", {"comments": "one"}, "comments must be a list of texts, not 'one'"),
        ("x.pcap", {"format": 5}, "format must be text, not 5"),
        (None, {}, "the output file must be a path, not None"),
        (7, {}, "the output file must be a path, not 7"),
    ],
)
def test_a_writer_of_the_wrong_type(path, given, message):
    """``wirecap.write`` says which of its arguments cannot be."""
    with pytest.raises(UsageError, match=message):
        wirecap.write(path, **given)


def test_all_that_fits(tmp_path):
    """Paths are files, NumPy's numbers are numbers, and buddy groups may be text."""
    with wirecap.write(tmp_path / "x") as out:
        out.write(counted(1), np.int64(1))
    with wirecap.open(tmp_path / "x", M=np.int64(64), count=np.uint8(5), duration_s=np.float32(5)) as capture:
        assert len(list(capture.packets())) == 1
    assert wirecap.capture(tmp_path / "x", write=tmp_path / "copy.pcapng").summary["packets"]["received"] == 1
    assert buddies_of([["eth1@0-1", QueueSpec("eth2")]]) == ((QueueSpec("eth1", (0, 1)), QueueSpec("eth2")),)
    assert buddies_of(()) == ()


def test_no_option_is_forgotten():
    """Every option has a type that is checked, or is a list, a path or an endpoint."""
    other = {"cpus", "buddies", "decisions_file", "html_file", "metrics", "to"}
    assert set(CaptureOptions.__annotations__) - set(KINDS) == other
