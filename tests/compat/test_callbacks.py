"""What a callback, or another thread, may do with the capture that it gets packets from."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from compat_peers import both

from wirecap.compat import cypcap, pcap, pcapy

PACKETS, LIMIT_S = 5_000, 60
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
ARP = "arp"
"""A filter that takes every second packet."""


def packet(number: int) -> bytes:
    return bytes(12) + (b"\x08\x06", b"\x08\x00")[number % 2] + struct.pack("!I", number)


def number_of(data: bytes) -> int:
    return int(struct.unpack_from("!I", data, 14)[0])


def record(number: int) -> bytes:
    data = packet(number)
    return struct.pack("<IIII", 1_700_000_000, number, len(data), len(data)) + data


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Packets with their numbers, more than are read at once."""
    file = tmp_path_factory.mktemp("callbacks") / "numbered.pcap"
    file.write_bytes(HEADER + b"".join(map(record, range(PACKETS))))
    return str(file)


def taken(reader: Any) -> int:
    return number_of(reader.next()[1])


def nested(module: Any, path: str, do: Callable[[Any, list[Any]], Any], at: int) -> list[Any]:
    """The packets that a loop's callback gets, which does something once, with what that gives."""
    reader, found = module.open_offline(path), []

    def take(header: Any, data: bytes) -> None:
        found.append((number_of(data), header.getts()))
        if len(found) == at:
            found.append(do(reader, found))

    reader.loop(-1, take)
    return found


DEEDS: dict[str, Callable[[Any, list[Any]], Any]] = {
    "next": lambda reader, found: [taken(reader) for _ in range(3)],
    "loop": lambda reader, found: reader.loop(5, lambda header, data: found.append(number_of(data))),
    "filter": lambda reader, found: reader.setfilter(ARP),
    "filter and next": lambda reader, found: (reader.setfilter(ARP), taken(reader)),
    "dispatch all": lambda reader, found: reader.dispatch(-1, lambda header, data: found.append(number_of(data))),
    "batch": lambda reader, found: len(reader.next_batch(7)[1]),
}


@pytest.mark.parametrize("at", [1, 1023, 1024, 1500])
@pytest.mark.parametrize("deed", DEEDS)
def test_a_callback_reads_on_and_filters_as_with_pcapy_ng(path: str, deed: str, at: int) -> None:
    """What a callback takes comes next and to nobody else, and its filter holds from the next packet on."""
    theirs, mine = both("pcapy", "pcapy-ng")
    assert nested(mine, path, DEEDS[deed], at) == nested(theirs, path, DEEDS[deed], at)


def test_a_callback_that_closes_ends_the_loop(path: str) -> None:
    """Its packet is the last one; then the reader says that it is closed."""
    for loop in ("loop", "dispatch"):
        reader, found = pcapy.open_offline(path), []
        getattr(reader, loop)(-1, lambda header, data: (found.append(data), reader.close()))  # noqa: B023
        assert found == [packet(0)]
        with pytest.raises(ValueError, match="pcap is closed"):
            reader.next()
    other, seen = pcap.pcap(path), []
    other.loop(-1, lambda time, data: (seen.append(data), other.close()))
    assert seen == [packet(0)]
    third, last = cypcap.open_offline(path), []
    third.loop(-1, lambda header, data: (last.append(data), third.close()))
    assert last == [packet(0)]


def test_what_a_callback_raises_comes_out(path: str) -> None:
    """StopIteration too, which ends a loop in Python; the packet behind is the next one."""

    def fail(*_: Any) -> None:
        raise StopIteration(5)

    for reader, take in ((pcapy.open_offline(path), taken), (pcap.pcap(path), lambda one: number_of(next(one)[1]))):
        for call in (reader.loop, reader.dispatch):
            with pytest.raises(StopIteration) as raised:
                call(-1, fail)
            assert raised.value.value == 5
        assert take(reader) == 2


def test_headers_in_nested_loops_stay_as_they_are(path: str) -> None:
    """The header that a callback holds tells of its packet while others take hundreds behind it."""
    reader, told = pcapy.open_offline(path), []

    def outer(header: pcapy.Pkthdr, data: bytes) -> None:
        number = number_of(data)
        reader.loop(1500, lambda inner, more: None)
        told.append((number, header.getts()[1], header.getcaplen()))

    reader.loop(3, outer)
    assert told == [(number, number, 18) for number in (0, 1501, 3002)]


def test_threads_share_a_reader(path: str) -> None:
    """Each packet goes to one of them."""
    reader, found = pcapy.open_offline(path), []

    def take() -> None:
        while (pair := reader.next())[0] is not None:
            found.append(number_of(pair[1]))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert sorted(found) == list(range(PACKETS))


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[str]:
    """A pipe that gives one packet and then nothing."""
    name = tmp_path / "silent"
    os.mkfifo(name)
    end = os.open(name, os.O_RDWR)
    os.write(end, HEADER + record(0))
    yield str(name)
    os.close(end)


def test_another_thread_closes_a_reader_that_waits(silent: str) -> None:
    """A loop that waits for a pipe ends, and so does one of cypcap after breakloop."""
    reader, first = pcapy.open_offline(silent), threading.Event()
    waiting = threading.Thread(target=reader.loop, args=(-1, lambda header, data: first.set()))
    waiting.start()
    assert first.wait(LIMIT_S)
    reader.close()
    waiting.join(LIMIT_S)
    assert not waiting.is_alive()


def test_breakloop_ends_a_wait_for_a_pipe(silent: str) -> None:
    """cypcap's loop raises Error with BREAK."""
    reader, first, raised = cypcap.open_offline(silent), threading.Event(), []

    def read() -> None:
        try:
            reader.loop(-1, lambda header, data: first.set())
        except cypcap.Error as error:
            raised.append(error.args[0])

    waiting = threading.Thread(target=read)
    waiting.start()
    assert first.wait(LIMIT_S)
    reader.breakloop()
    waiting.join(LIMIT_S)
    reader.close()
    assert raised == [cypcap.ErrorCode.BREAK]


def test_star_imports_bring_the_names_of_the_package() -> None:
    """All of them, and none of ours that would hide a program's own."""
    theirs, mine = both("pcapy", "pcapy-ng")
    assert set(mine.__all__) == {name for name in dir(theirs) if not name.startswith("_")}
    for module in (pcap, cypcap):
        assert not {"os", "sys", "np", "struct", "Any", "Handle"} & set(module.__all__)
        assert {name for name in module.__all__ if not hasattr(module, name)} == set()


@pytest.mark.parametrize("name", ["nosuch0", "a" * 300, "a/b", "", "a b"])
def test_an_interface_is_never_taken_for_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_live refuses what is no interface in one line, even where a file is called so."""
    monkeypatch.chdir(tmp_path)
    Path("nosuch0").write_bytes(HEADER)
    with pytest.raises(pcapy.PcapError) as raised:
        pcapy.open_live(name, 65535, 1, 10)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("wrong", [None, 5, b"ip"])
def test_filters_must_be_text(path: str, wrong: Any) -> None:
    """TypeError, as with pcapy-ng."""
    reader = pcapy.open_offline(path)
    for call in (reader.setfilter, pcapy.BPFProgram, lambda text: pcapy.compile(1, 65535, text, 1, 0)):
        with pytest.raises(TypeError):
            call(wrong)
    with pytest.raises(TypeError):
        pcapy.BPFProgram("ip").filter("no bytes")
    assert taken(reader) == 0


def test_nothing_follows_a_record_that_could_not_be_written(path: str) -> None:
    """A dumper on a full disk says so at each packet from then on, and closes quietly."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    reader = pcapy.open_offline(path)
    dumper, header = reader.dump_open("/dev/full"), reader.next()[0]
    big = bytes(1 << 20)
    header.rows.captured[:] = len(big)
    for _ in range(3):
        with pytest.raises(pcapy.PcapError, match="No space left on device"):
            dumper.dump(header, big)
    dumper.close()
