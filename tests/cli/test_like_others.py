"""``wirecap capture`` beside tcpdump and dumpcap on the same packets: what their options do."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from rig import PCAP_HEADER, pcap_records, read_pcapng
from wirecap.cli import main
from wirecap.cli.capture import command
from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.lab.process import find

COUNT = 55


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "in.pcap"
    path.write_bytes(PCAP_HEADER + pcap_records(COUNT))
    return path


def tool(name: str) -> str:
    return find(name) or pytest.skip(f"needs {name}")


def ours(*arguments: str) -> str:
    """What the command prints on the standard output."""
    done = CliRunner().invoke(command, ["-q", *arguments])
    assert done.exception is None, done.exception
    return done.stdout


def theirs(*arguments: str, given: Path | None = None) -> str:
    with (given or Path("/dev/null")).open("rb") as file:
        return subprocess.run(arguments, stdin=file, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("ring", ["-b packets:20", "-b packets:10 -b files:2", "-b packets:20 -a files:2"])
@pytest.mark.parametrize("where", ["-", "stdout", "names"])
def test_printname_is_dumpcaps(trace, tmp_path, monkeypatch, ring, where):
    """-b printname tells the same names in the same order as dumpcap, but for their clock."""
    dumpcap, told = tool("dumpcap"), []
    for name, run in (("theirs", lambda *a: theirs(dumpcap, "-i", "-", "-q", *a, given=trace)),
                      ("ours", lambda *a: ours("-r", str(trace), *a))):  # fmt: skip
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        printed = run("-w", "out.pcapng", *ring.split(), "-b", f"printname:{where}")
        lines = (Path(where).read_text() if where == "names" else printed).splitlines()
        told.append([re.sub(r"_\d{14}", "", Path(line).name) for line in lines])  # dumpcap adds a ./ to some
    assert told[0] == told[1] != []


@pytest.mark.parametrize(
    "text",
    ["arp", "# web\ntcp # not udp\n  port 80\n", "# nothing wanted", "tcp port 80#\n", "\n\n", "ip or\narp # x"],
)
def test_filter_files_are_tcpdumps(tmp_path, text):
    """-F reads the same program out of a file with comments as tcpdump does."""
    file = tmp_path / "filter"
    file.write_text(text)
    assert ours("-d", "-F", str(file)) == theirs(tool("tcpdump"), "-d", "-F", str(file))


def test_the_number_of_packets_is_tcpdumps(trace):
    """--count prints what tcpdump prints, with a filter too."""
    for words in ("", "ether[7] < 30", "ether[7] = 3"):
        line = theirs(tool("tcpdump"), "--count", "-r", str(trace), words)
        assert ours("--count", "-r", str(trace), words) == line


@pytest.mark.parametrize("option", ["--nano", "--micro", "--time-stamp-precision=nano", "--time-stamp-precision=micro"])
def test_precision_is_tcpdumps(trace, tmp_path, option):
    """--nano, --micro and --time-stamp-precision make the file that tcpdump makes."""
    out = tmp_path / "theirs.pcap"
    theirs(tool("tcpdump"), "-r", str(trace), "-w", str(out), option)
    ours("-r", str(trace), "-w", str(tmp_path / "ours.pcap"), option)
    assert (tmp_path / "ours.pcap").read_bytes()[:16] == out.read_bytes()[:16]
    assert (tmp_path / "ours.pcap").read_bytes()[24:] == out.read_bytes()[24:]


def test_comments_are_dumpcaps(trace, tmp_path):
    """Each --capture-comment stands in the file as capinfos shows those of dumpcap."""
    capinfos, comments = tool("capinfos"), ["--capture-comment", "first, für später", "--capture-comment", "second"]
    ours("-r", str(trace), "-w", str(tmp_path / "ours.pcapng"), *comments)
    theirs(tool("dumpcap"), "-q", "-i", "-", "-w", str(tmp_path / "theirs.pcapng"), *comments, given=trace)
    shown = [theirs(capinfos, "-k", str(tmp_path / f"{name}.pcapng")).splitlines()[1:] for name in ("ours", "theirs")]
    assert shown[0] == shown[1] != []
    assert len(read_pcapng(tmp_path / "ours.pcapng")) == COUNT


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-V files", "wirecap convert"),
        ("-g -r x", "umask"),
        ("--ifname x -i eth1", "its own name"),
        ("--ifdescr x -i eth1", "its own name"),
        ("--temp-dir /tmp -i eth1", "-w FILE"),
        ("-r x --capture-comment y", "-w FILE"),
        ("-r x -P -w y --capture-comment y", "cannot hold comments"),
        ("-r x -w - -b printname:stderr", "has no file name"),
        ("-r x -w - -b printname:-", "standard output"),
        ("-r x -w y --summary-json - -b printname:-", "standard output"),
        ("-r x --count --summary-json -", "standard output"),
        ("-r x -w y -b packets:3 -b printname:/nonexistent/z", "/nonexistent/z"),
        ("-F x -r y udp", "the filter is given twice"),
        ("-r x -b udp", "tcpdump's flag -b is not supported: leave it out"),
    ],
)
def test_what_is_not_done_is_told(tmp_path, monkeypatch, capsys, line, says):
    """An option of theirs that cannot be followed is one line with what to do instead, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(PCAP_HEADER + pcap_records(3))
    assert main.run(["capture", "-q", *line.split()]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_harmless_options_are_taken(trace):
    """Options that ask for what is so anyway change nothing."""
    plain = ours("--count", "-r", str(trace))
    for option in ("-K", "--dont-verify-checksums", "--immediate-mode", "-nn", "-O", "--no-optimize"):
        assert ours("--count", "-r", str(trace), option) == plain


def test_link_types_that_come_later_are_kept(tmp_path):
    """A file whose later sections have other link types is copied with each packet under its own, as tshark has it."""
    tshark = tool("tshark")
    blocks = b"".join(
        headers.section_header("x")
        + headers.interface_description(f"if{number}", 0, linktype)
        + packet_block(bytes(64))
        for number, linktype in enumerate([1, 101, 113, 1])
    )
    (tmp_path / "in.pcapng").write_bytes(blocks)
    ours("-r", str(tmp_path / "in.pcapng"), "-w", str(tmp_path / "out.pcapng"))
    fields = ["-T", "fields", "-e", "frame.encap_type", "-e", "frame.len", "-e", "frame.interface_name"]
    read = [theirs(tshark, "-n", "-r", str(tmp_path / f"{name}.pcapng"), *fields) for name in ("out", "in")]
    assert read[0] == read[1]
    assert (tmp_path / "out.pcapng").read_bytes() == blocks
    with pytest.raises(UsageError, match="one link type"):
        raise (
            CliRunner()
            .invoke(command, ["-q", "-r", str(tmp_path / "in.pcapng"), "-w", str(tmp_path / "o.pcap")])
            .exception
        )


def packet_block(data: bytes) -> bytes:
    """An enhanced packet block of the section's first interface."""
    size = struct.pack("<I", 32 + len(data))
    return struct.pack("<I", 6) + size + struct.pack("<5I", 0, 0, 1, len(data), len(data)) + data + size


@pytest.mark.parametrize(
    ("rotation", "files"), [("-C 1k", 4), ("-b packets:20", 3), ("-b packets:10 -b files:2", 6), ("", None)]
)
def test_the_closing_lines_count_the_files(trace, tmp_path, capsys, rotation, files):
    """Where one capture may fill several files, a line says how many it did, removed ones too."""
    out = tmp_path / "out.pcap"
    assert main.run(["capture", "-q", "-r", str(trace), "-w", str(out), *rotation.split()]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "file" in line]
    assert told == ([f"{files} files written"] if files else [])
    assert "files:2" in rotation or len(list(tmp_path.glob("out*"))) == (files or 1)


def test_names_that_bounds_make_are_told(trace, tmp_path, capsys):
    """--limit and --max-age number the files: the closing lines say how they are called."""
    out = tmp_path / "out.pcap"
    assert main.run(["capture", "-q", "-r", str(trace), "-w", str(out), "--max-age", "7d"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "file" in line]
    assert told == [f"1 file written, the first called {tmp_path}/out_00001_YYYYMMDDhhmmss.pcap"]
    assert [re.sub(r"\d{14}", "T", path.name) for path in tmp_path.glob("out_*")] == ["out_00001_T.pcap"]


@pytest.mark.parametrize("options", ["-n", "-nn -v", "-vv"])
def test_what_only_printing_uses_is_told(trace, capsys, options):
    """-n alone prints nothing here, unlike tcpdump's."""
    assert main.run(["capture", "-r", str(trace), *options.split()]) == 0
    assert "wirecap: packets are counted (--print shows them)\n" in capsys.readouterr().err
