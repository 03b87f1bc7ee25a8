"""``wirecap convert`` writes what editcap, mergecap and tcpdump write."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

import pytest
from beside_editcap import ours, peer

from wirecap.kernels.convert.order import FIRST_SEEN

EDITS = {
    "copy": ([], []),
    "nanoseconds": (["-F", "nsecpcap"], ["-F", "nsecpcap"]),
    "keep packets": (["--packets", "1-10,20,5900-"], ["-r", "1-10", "20", "5900-6000"]),
    "omit packets": (["--without-packets", "2,1000-5000"], ["2", "1000-5000"]),
    "cut": (["--snap", "61"], ["-s", "61"]),
    "later": (["--shift", "3600.25"], ["-t", "3600.25"]),
    "earlier": (["--shift=-0.000007"], ["-t", "-0.000007"]),
    "cut and later": (["-s", "40", "-t", "86400"], ["-s", "40", "-t", "86400"]),
}
FORMS = {"-F pcap": ".pcap", "-F nsecpcap": ".pcap", "-F pcapng": ".pcapng"}


def same(tmp_path: Path, source: Path, mine: list[str], theirs: list[str]) -> None:
    """Both programs make the same pcap file."""
    form = [] if "-F" in theirs else ["-F", "pcap"]
    numbers = [word for word in theirs if word[0].isdigit() and theirs[theirs.index(word) - 1] not in ARGUMENT]
    options = theirs[: len(theirs) - len(numbers)]
    peer("editcap", *form, *options, source, tmp_path / "theirs.pcap", *numbers)
    ours(source, "-w", tmp_path / "mine.pcap", *mine)
    # bytes 16 to 20 are the snap length, which editcap leaves as it was
    (left, right) = ((tmp_path / name).read_bytes() for name in ("mine.pcap", "theirs.pcap"))
    assert left[:16] + left[20:] == right[:16] + right[20:]


ARGUMENT = ("-s", "-t", "-F", "-D", "-w", "-I", "-A", "-B")


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_editcaps(trace: Path, tmp_path: Path, name: str) -> None:
    """Each option that editcap has, too, gives its bytes."""
    same(tmp_path, trace, *EDITS[name])


def test_times_are_editcaps(trace: Path, tmp_path: Path) -> None:
    """--since and --until bound the packets as -A and -B do."""
    first = float(peer("tshark", "-r", trace, "-T", "fields", "-e", "frame.time_epoch").split()[0])
    since, until = f"{first + 0.2:.6f}", f"{first + 1.1:.6f}"
    same(tmp_path, trace, ["--since", since, "--until", until], ["-A", since, "-B", until])


KERNELS = pytest.param("-D 5 -I 6", marks=pytest.mark.kernel)


@pytest.mark.parametrize("mine", ["-D 0", "-D 1", "-D 2", "-D 5", "-D 100", "-D 1000000", KERNELS, "-D 5 -s 1"])
def test_duplicates_are_editcaps(repeating: Path, tmp_path: Path, mine: str) -> None:
    """The same packets are left out, by a window of packets."""
    same(tmp_path, repeating, mine.split(), mine.split())


@pytest.mark.parametrize("window", ["0", "0.00001", "0.0005", "1"])
def test_duplicates_in_time_are_editcaps(repeating: Path, trace: Path, tmp_path: Path, window: str) -> None:
    """The same packets are left out, by a window of time."""
    ordered = tmp_path / "ordered.pcap"
    peer("reordercap", repeating, ordered)
    for source in (ordered, trace):
        same(tmp_path, source, ["--duplicates-within", window], ["-w", window])


@pytest.mark.parametrize("window_us", [1000, 20_000, 60_000])
def test_windows_of_time_that_hold_many_packets(tmp_path: Path, window_us: int) -> None:
    """What is remembered grows with the packets in the window: those are left out that a plain search leaves out."""
    dice = random.Random(9)
    out = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)]
    kept, last = out[:], {}
    for now in range(3 * FIRST_SEEN):
        body = dice.randrange(FIRST_SEEN)
        out.append(struct.pack("<IIII", 1_700_000_000, now, 20, 20) + body.to_bytes(20, "little"))
        if now - last.get(body, -window_us - 1) > window_us:  # editcap itself would take a minute
            kept.append(out[-1])
        last[body] = now
    (tmp_path / "many.pcap").write_bytes(b"".join(out))
    ours(tmp_path / "many.pcap", "-w", tmp_path / "mine.pcap", "--duplicates-within", f"{window_us}us")
    assert (tmp_path / "mine.pcap").read_bytes()[24:] == b"".join(kept)[24:]


def test_merging_is_mergecaps(trace: Path, repeating: Path, tmp_path: Path) -> None:
    """Several files go into one in mergecap's order, ties and disorder included; also one after the other."""
    shifted, packed = tmp_path / "shifted.pcap", tmp_path / "packed.pcap.gz"
    peer("editcap", "-F", "pcap", "-t", "0.1", trace, shifted)
    packed.write_bytes(gzip.compress(trace.read_bytes()))
    sources = [trace, shifted, repeating, packed, repeating]
    for way in ([], ["-a"]):
        peer("mergecap", "-F", "pcap", *way, "-w", tmp_path / "theirs.pcap", *sources)
        ours(*sources, *way, "-w", tmp_path / "mine.pcap")
        assert (tmp_path / "mine.pcap").read_bytes()[24:] == (tmp_path / "theirs.pcap").read_bytes()[24:]


SEEN = ["frame.time_epoch", "frame.interface_id", "frame.cap_len", "frame.len", "frame.comment", "frame.encap_type"]


def seen(path: Path) -> list[str]:
    fields = [word for field in SEEN for word in ("-e", field)]
    return peer("tshark", "-r", path, "-T", "fields", *fields).splitlines()


def test_merging_pcapng_is_mergecaps(trace: Path, repeating: Path, tmp_path: Path) -> None:
    """Interfaces are renumbered, comments and times stay: tshark reads the same from both."""
    noted, other = tmp_path / "noted.pcapng", tmp_path / "other.pcapng"
    peer("editcap", "-a", "3:first", "-a", "7:second", "-r", repeating, noted, "1-500")
    peer("mergecap", "-I", "none", "-w", other, noted, trace)
    peer("mergecap", "-I", "none", "-w", tmp_path / "theirs.pcapng", other, noted, trace)
    ours(other, noted, trace, "-w", tmp_path / "mine.pcapng")
    assert seen(tmp_path / "mine.pcapng") == seen(tmp_path / "theirs.pcapng")


@pytest.mark.parametrize(("mine", "theirs"), [("packets:1700", ["-c", "1700"]), ("time:0.7", ["-i", "0.7"])])
def test_splitting_is_editcaps(trace: Path, tmp_path: Path, mine: str, theirs: list[str]) -> None:
    """The same files, of the same names with the same packets."""
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
    peer("editcap", "-F", "pcap", *theirs, trace, tmp_path / "theirs" / "o.pcap")
    ours(trace, "-w", tmp_path / "mine" / "o.pcap", "--split", mine)
    found, expected = (
        {path.name: path.read_bytes() for path in sorted((tmp_path / name).iterdir())} for name in ("mine", "theirs")
    )
    assert len(expected) > 2
    assert found == expected


@pytest.mark.kernel
def test_splitting_by_size(trace: Path, tmp_path: Path) -> None:
    """A file is full once it has so many bytes, and all of them together hold every packet."""
    ours(trace, "-w", tmp_path / "o.pcap", "--split", "size:500kB")
    files = sorted(tmp_path.iterdir())
    longest = 65536
    assert all(500_000 <= path.stat().st_size < 500_000 + longest for path in files[:-1])
    assert b"".join(path.read_bytes()[24:] for path in files) == trace.read_bytes()[24:]


@pytest.mark.parametrize("filter", ["tcp port 443", "ip6", "not udp and greater 200"])
def test_filters_are_tcpdumps(trace: Path, tmp_path: Path, filter: str) -> None:
    """A filter chooses tcpdump's packets."""
    peer("tcpdump", "-r", trace, "-w", tmp_path / "theirs.pcap", filter)
    ours(trace, "-w", tmp_path / "mine.pcap", "-f", filter)
    assert (tmp_path / "mine.pcap").read_bytes()[24:] == (tmp_path / "theirs.pcap").read_bytes()[24:]
