"""The file that shows a capture to others: who may read it, what it survives, and what becomes of dead ones."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from states import counters_of, queue_of
from wirecap.cli.top import Watch
from wirecap.errors import WirecapError
from wirecap.observe import counters_file as files
from wirecap.observe.counters import Counters, DiskCounters, OutputCounters
from wirecap.observe.counters_file import HEADER, MAGIC, CountersFile

SHOW = """
import sys
from pathlib import Path
from wirecap.observe.counters import Counters
from wirecap.observe.counters_file import CountersFile
CountersFile(1).put(Counters.from_json(Path(sys.argv[1]).read_bytes()))
print("shown", flush=True)
sys.stdin.read()
"""
"""A process that shows what a JSON file says until it is killed."""


@pytest.fixture
def shown(folder):
    """``shown(counters)`` puts them into a file of this process."""
    opened = []

    def show(counters=None):
        opened.append(CountersFile(1))
        opened[-1].put(counters or counters_of())
        return opened[-1]

    yield show
    for file in opened:
        file.close()


def test_what_is_put_is_read(shown, folder):
    """All of it, from a file that only its owner can read, whatever the umask says."""
    everything = counters_of(
        queue_of("eth1", 1, 7, pool_exhausted=3), outputs=[OutputCounters("eth2", 0, 5, {"tx_refused": 1})],
        disk=DiskCounters("x.pcapng", 7, 420, 1, free=10, size=20),
    )  # fmt: skip
    before = os.umask(0)
    try:
        file = shown(everything)
    finally:
        os.umask(before)
    assert file.path.stat().st_mode & 0o777 == 0o600
    [found] = files.scan(folder)
    assert found.counters == everything
    assert Counters.from_json(everything.to_json()) == everything


def test_a_reader_never_sees_half_a_state(shown, folder, monkeypatch):
    """While the file is written over and over, every look finds one state whole."""
    monkeypatch.setattr(files, "_TRIES", 10_000)  # the writer may stand still in the middle
    ended, file = threading.Event(), shown()

    def write():
        number = 0
        while not ended.is_set():
            number += 1
            file.put(counters_of(*(queue_of(queue=each, received=number) for each in range(1 + number % 9))))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            [found] = files.scan(folder)
            assert found.counters, found.problem
            assert len({each.received for each in found.counters.queues}) == 1
    finally:
        ended.set()
        writer.join()


def test_the_file_goes_at_the_end(shown, folder):
    file, watch = shown(), Watch(folder)
    assert len(watch.look()) == 1
    file.path.unlink()  # as ``close`` does
    assert watch.look() == []
    assert watch.notes == [f"capture {os.getpid()} on eth1 has ended"]


def test_a_file_that_somebody_removed_comes_back(shown, folder):
    file = shown()
    file.path.unlink()
    file.put(counters_of(queue_of(received=9)))
    [found] = files.scan(folder)
    assert found.counters.queues[0].received == 9


def test_a_dead_capture_leaves_a_line_and_no_file(folder, tmp_path):
    """A capture that is killed is told apart from one that ended, and its file is removed."""
    state = tmp_path / "state.json"
    state.write_bytes(counters_of(pid=4711).to_json())
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:  # fmt: skip
        assert process.stdout.readline() == b"shown\n"
        watch = Watch(folder)
        assert [each.now.pid for each in watch.look()] == [4711]
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert watch.look() == []
    assert watch.notes == ["capture 4711 on eth1 has died"]
    assert not list(folder.glob("wirecap-*"))


def test_what_a_kill_left_half_made_goes(folder):
    """A file that was being made long ago is removed; one that is being made now is left alone."""
    old, new = folder / ".wirecap-1-aa", folder / ".wirecap-2-bb"
    for path, age_s in ((old, files.MAKING_S + 5), (new, 0)):
        path.touch()
        os.utime(path, (time.time() - age_s,) * 2)
    assert list(files.scan(folder)) == []
    assert (old.exists(), new.exists()) == (False, True)


def test_interfaces_are_chosen(shown, folder):
    shown(counters_of(queue_of("eth1")))
    shown(counters_of(queue_of("eth2")))
    names = {choice: [each.now.interfaces for each in Watch(folder, choice).look()] for choice in ((), ("eth2",))}
    assert sorted(names[()]) == [["eth1"], ["eth2"]]
    assert names[("eth2",)] == [["eth2"]]


BROKEN = {
    "counts in version 7, and this wirecap reads version 1": HEADER.pack(MAGIC, 7, 4711, 1, 1, 0, 0),
    "no file of counters": b"x" * 100,
    ": damaged": HEADER.pack(MAGIC, files.VERSION, 4711, 1, 1, 100, 0) + b"{}",
}


@pytest.mark.parametrize("says", BROKEN)
def test_a_file_that_cannot_be_understood_is_one_line(says, shown, folder):
    """Of another version, no such file, damaged: a line, and the other captures are shown."""
    broken = shown()
    os.truncate(broken.path, 0)
    broken.path.write_bytes(BROKEN[says])
    shown(counters_of(queue_of("eth2")))
    watch = Watch(folder)
    assert [each.now.interfaces for each in watch.look()] == [["eth2"]]
    [problem] = watch.problems
    assert says in problem
    assert "\n" not in problem


WRONG = {
    "a number as text": lambda found: found.update(R="100"),
    "a field too few": lambda found: found.pop("queues"),
    "a list for a word": lambda found: found.update(engine=["xdp"]),
    "true for a number": lambda found: found.update(M=True),
    "no object": lambda found: found.update(queues=[3]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_another_user_may_have_written(name):
    """Root reads files that anybody could have made: they are taken apart with care."""
    found = json.loads(counters_of().to_json())
    WRONG[name](found)
    with pytest.raises(ValueError):
        Counters.from_json(json.dumps(found).encode())


def test_names_cannot_move_the_cursor():
    counters = Counters.from_json(counters_of(queue_of("eth\x1b[2J\n")).to_json())
    assert counters.interfaces == ["eth?[2J?"]


def test_no_folder_is_one_line(tmp_path):
    with pytest.raises(WirecapError, match="no such folder"):
        Watch(tmp_path / "none").look()


def test_a_fifo_is_not_waited_for(folder):
    os.mkfifo(folder / "wirecap-1-x")
    [found] = files.scan(folder)
    assert found.problem.endswith("no file of counters")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_others_captures_are_counted_in_a_line(shown, folder):
    """A user sees that there are captures that they cannot read; root reads all of them."""
    shown()
    shown().path.chmod(0o644)  # even if it is open to all, as one that was made up might be
    folder.chmod(0o755)
    looking = (
        "import os; from pathlib import Path; from wirecap.cli.top import Watch; os.setuid(65534);"
        "watch = Watch(Path('.')); print(watch.look(), watch.problems)"
    )
    done = subprocess.run([sys.executable, "-c", looking], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "[] ['2 captures of other users cannot be read: root sees all']\n"
    assert len(Watch(folder).look()) == 2


def test_the_header_has_a_fixed_place_for_version_and_process(shown):
    """What every version can read of every other: who counts there, in which version, since when."""
    data = shown().path.read_bytes()
    assert struct.unpack_from("<8sIIQ", data) == (MAGIC, files.VERSION, os.getpid(), 1)
