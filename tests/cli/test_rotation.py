from __future__ import annotations

import pytest

from wirecap.cli.capture import parse_autostop, parse_ring, parse_tcpdump_size
from wirecap.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 10**6), ("10", 10**7), ("4k", 4096), ("2M", 2 * 2**20), ("1g", 2**30), ("64MiB", 2**26), ("1KB", 1000)],
)
def test_tcpdump_sizes(text, size):
    """-C counts millions of bytes; a suffix k, m or g is a power of 1024 as in tcpdump."""
    assert parse_tcpdump_size(text) == size


def test_dumpcap_conditions():
    """dumpcap's conditions in seconds, kB, files and packets, with units too."""
    assert parse_autostop(["duration:1.5", "filesize:2", "files:3", "packets:4k"]) == {
        "ns": 1_500_000_000,
        "bytes": 2000,
        "files": 3,
        "packets": 4000,
    }
    assert parse_ring(
        ["duration:5m", "interval:3600", "filesize:64MiB", "files:2", "packets:9", "printname:stderr", "nametimenum:1"]
    ) == {
        "ring_ns": 300 * 10**9,
        "ring_interval_ns": 3600 * 10**9,
        "ring_bytes": 2**26,
        "ring_files": 2,
        "ring_packets": 9,
        "ring_print": "stderr",
        "ring_name_time_first": True,
    }


@pytest.mark.parametrize(
    "text", ["", "duration", "duration:", "duration:-1", "duration:0", "size:3", "files:x", "filesize:1 2"]
)
def test_bad_conditions(text):
    """A condition that is not understood is refused with the forms that are."""
    with pytest.raises(UsageError) as refused:
        parse_autostop([text])
    assert refused.value.hint
