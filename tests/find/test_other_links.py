"""Filters that some link types of an archive refuse, or that match nothing there; and words that may be filters."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from archive_rig import indexed, pcap
from click.testing import CliRunner

from wirecap.cli.find import command
from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter, locate
from wirecap.filters.words import names_nothing

ETHERNET, SYMANTEC, IEEE80211, RAW = 1, 99, 105, 101
UNKNOWN = 14
"""libpcap compiles nothing for it."""
TAGGED = bytes(12) + b"\x81\0\0\5\x08\0" + b"\x45" + bytes(60)
ARP = bytes(12) + b"\x08\x06\0\1\x08\0\6\4\0\1" + bytes(40)
BEACON = b"\x80\0" + bytes(60)
FILES = {"a.pcap": (ETHERNET, [TAGGED, ARP]), "b.pcap": (RAW, [b"\x45" + bytes(60)]), "c.pcap": (UNKNOWN, [bytes(60)])}


@pytest.fixture(params=["indexed", "plain"])
def folder(request, tmp_path) -> Path:
    """Files of Ethernet, raw IP and a link type that nobody knows, with indexes or without."""
    made = tmp_path / "archive"
    made.mkdir()
    for name, (linktype, packets) in FILES.items():
        pcap(made / name, packets, linktype)
        if request.param == "indexed":
            indexed(made / name, 4096)
    return made


def searched(*words: object) -> tuple[dict, str]:
    """The counters of a search, and what was said."""
    result = CliRunner().invoke(command, [*map(str, words), "--json", "-"], standalone_mode=False)
    if result.exception:
        raise result.exception
    return json.loads(result.stdout), result.stderr


@pytest.mark.parametrize(
    ("expression", "names", "refusing"),
    [
        ("arp", ["a.pcap"], ["14"]),  # "rejects all packets" of raw IP
        ("vlan 5", ["a.pcap"], ["RAW (Raw IP)", "14"]),  # "no VLAN support" there
        ("", list(FILES), []),
        ("  ", list(FILES), []),
        ("arp and ip", [], ["14"]),
    ],
)
def test_a_link_type_that_refuses_a_filter(folder, expression, names, refusing):
    """It has no match, a line says so, and the other files are searched: with and without an index alike."""
    counts, said = searched("-f", expression, folder)
    assert [Path(one["file"]).name for one in counts["matching"]] == names
    assert [line for line in counts["notes"] if "no packet of link type" in line] == [
        line for name in refusing for line in counts["notes"] if f"no packet of link type {name} matches" in line
    ]
    assert sum("no packet of link type" in line for line in said.splitlines()) == len(refusing)


def test_an_archive_of_one_link_type_that_refuses(folder):
    """What nothing in the archive can take is an error, in words about what is there."""
    for name in ("a.pcap", "c.pcap"):
        for path in folder.glob(f"{name}*"):
            path.unlink()
    with pytest.raises(UsageError, match="filter 'vlan 5': no VLAN support"):
        searched("-f", "vlan 5", folder)
    with pytest.raises(UsageError, match="filter 'tpc 5'"):
        searched("-f", "tpc 5", folder)


def test_a_filter_that_ethernet_refuses(tmp_path):
    """Frames of 802.11 are found beside Ethernet."""
    pcap(tmp_path / "wifi.pcap", [BEACON], IEEE80211)
    pcap(tmp_path / "wired.pcap", [ARP])
    counts, said = searched("type mgt", tmp_path)
    assert [Path(one["file"]).name for one in counts["matching"]] == ["wifi.pcap"]
    assert "no packet of link type EN10MB (Ethernet) matches" in said


def test_an_empty_filter_needs_no_libpcap():
    """It accepts every packet of any link type; there is no place in it that could be wrong."""
    assert compile_filter("", UNKNOWN).rows == compile_filter("", 1).rows
    assert locate("", "unknown data link type", lambda text: "unknown data link type") == ""


def test_a_long_filter_is_no_file(folder):
    """A filter may be longer than any file's name."""
    counts, _ = searched(" or ".join(["arp"] * 200), folder)
    assert counts["packets"] == 1
    with pytest.raises(UsageError, match=r"aaa\.\.\.aaa.*: no such file or folder"):
        searched("arp", "a" * 300)


@pytest.mark.parametrize("word", ["arp", "tcp"])
def test_a_file_with_the_name_of_a_filter(tmp_path, word):
    """Somebody may have meant the filter: one line says what the word is taken for."""
    path = pcap(tmp_path / word, [ARP])
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert f"wirecap: {word} is taken for the file or folder of this name (-f {word} filters)" in searched(word)[1]
        assert "is taken for" not in searched(path)[1]
        assert "is taken for" not in searched("-f", "arp", word)[1]
    finally:
        os.chdir(before)


def test_nobody_is_asked_for_a_name():
    """What may be the name of a host is not looked up to find out whether a file's name is a filter."""
    assert names_nothing("src net 10.0.0.0/8 and (tcp port 80 or fe80::1)")
    assert not names_nothing("captures")
    assert not names_nothing("host example.org")
