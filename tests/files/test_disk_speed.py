from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wirecap.cli import disk, main
from wirecap.errors import UsageError
from wirecap.files import disk_speed, writer
from wirecap.files.disk_speed import DiskSpeed
from wirecap.files.reader import open_capture
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="what is measured is compiled")
POOL = 50 << 20


def measured(seen: Callable[[DiskSpeed], object], folder: Path, wanted: int, seconds: float) -> tuple[DiskSpeed, float]:
    """What is measured, and the time, in which the machine did something: one of five goes, each of twice the time."""
    for turn in range(5):
        speed, asked = disk_speed.measure(folder, wanted, seconds * 2**turn, POOL), seconds * 2**turn
        if seen(speed):
            break
    return speed, asked


def test_a_slow_rate_is_taken(tmp_path):
    """A folder takes a rate that it is far faster than, at that rate, and nothing is left behind."""
    speed, seconds = measured(lambda speed: speed.written, tmp_path, 8 << 20, 1.0)
    assert speed.lost == 0
    assert 0 < speed.written <= (8 << 20) * seconds
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_loses(tmp_path, monkeypatch):
    """A disk that takes 20 ms for each block loses what its pool cannot hold: sent and lost are all there was."""

    def slowed(write):
        def slow(*arguments):
            time.sleep(0.02)
            return write(*arguments)

        return slow

    for target in (writer.Direct, writer.Plain):
        monkeypatch.setattr(target, "write", slowed(target.write))
    wanted = 4 << 30
    speed, seconds = measured(lambda speed: speed.backlog > POOL and speed.wait_s, tmp_path, wanted, 0.5)
    assert speed.lost > 0
    assert speed.written + speed.lost <= wanted * seconds
    assert speed.backlog > POOL
    assert speed.wait_s > 0


def test_as_fast_as_it_goes(tmp_path):
    """Without a rate nothing can be lost."""
    speed, _ = measured(lambda speed: speed.written, tmp_path, 0, 0.3)
    assert speed.lost == 0
    assert speed.per_second > 0


def test_files_follow_each_other(tmp_path, monkeypatch):
    """No more than two files are there at once, and each is a whole capture file."""
    monkeypatch.setattr(disk_speed, "FILE_BYTES", 8 << 20)
    most, remove = [0], disk_speed.Path.unlink

    def unlink(self, missing_ok=False):
        most[0] = max(most[0], len(list(tmp_path.iterdir())))
        with open_capture(str(self)) as file:
            assert file.interfaces[0].snaplen == disk_speed.PACKET_BYTES
        remove(self, missing_ok)

    monkeypatch.setattr(disk_speed.Path, "unlink", unlink)
    speed, _ = measured(lambda speed: speed.written > 24 << 20, tmp_path, 200 << 20, 0.5)
    assert speed.written > 24 << 20
    assert most[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_the_rate_of_a_file():
    """A link of 10 Gbit/s full of packets of 500 bytes makes 1.27 GB/s of blocks; and back."""
    assert disk_speed.file_rate(10**10) == 10**10 // 8 * 532 // 524
    assert abs(disk_speed.link_rate(disk_speed.file_rate(10**10)) - 10**10) < 10


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--disk {folder}/none --duration 1s", "no such file or directory (name a folder that exists)"),
        ("--disk {folder}/file --duration 1s", "not a folder (name the folder into which captures are written)"),
        ("--disk {folder} -i nonesuch", "no interface 'nonesuch'"),
        ("--disk {folder} -i lo", "lo does not say how fast it is (add --rate 10Gbps)"),
        ("--disk {folder} --rate fast", "--rate: unknown link: 'fast'"),
        ("--disk {folder} --duration 0", "--duration"),
        ("--rate 10Gbps", "--rate and --duration are for a disk (add --disk FOLDER)"),
        ("--disk {folder} --fix", "--fix cannot be combined with --disk or --report (use only one of them)"),
        ("--yes", "--yes has no effect without --fix (add --fix)"),
        ("--disk /proc --duration 1s", "/proc"),
    ],
)
def test_wrong_arguments(line, said, tmp_path, capsys):
    """Each is refused in one line, with what to do."""
    (tmp_path / "file").touch()
    assert main.run(["doctor", *line.format(folder=tmp_path).split()]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in told


def test_no_room(tmp_path, monkeypatch):
    """A disk with hardly any room is refused before anything is written."""
    usage = disk_speed.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(disk_speed.shutil, "disk_usage", lambda folder: usage._replace(free=10 << 20))
    with pytest.raises(UsageError, match="only 10 MiB free"):
        disk_speed.measure(tmp_path, 1 << 30, 60, POOL)


def test_what_is_said(tmp_path, capsys):
    """Enough is good, too little is not and loses packets, and without a rate it is a number."""
    good = disk.judged("/x", 10**9, DiskSpeed(129 << 20, 60.0, 129 << 20, 0, 1000, 0.1), POOL)
    bad = disk.judged("/x", 10**9, DiskSpeed(129 << 20, 60.0, 1 << 20, 3 << 20, 9 << 20, 0.1), POOL)
    open_end = disk.judged("/x", 0, DiskSpeed(0, 60.0, 129 << 20, 0, 0, 0.1), POOL)
    assert (good.good, bad.good, open_end.good) == (True, False, None)
    assert bad.loses
    assert "75 % of the packets would be lost" in bad.found
    assert main.run(["doctor", "--disk", str(tmp_path), "--rate", "1Mbps", "--duration", "100ms"]) == 0
    assert "takes 1 Mbit/s" in capsys.readouterr().out


@pytest.mark.live
def test_the_rate_of_interfaces(testbed, tmp_path, capsys):
    """Without --rate the links of -i count, added up: those of two veths, which say that they are of 10 Gbit/s."""
    bed = testbed(queues=1, nics=2)
    names = [word for nic in bed.nics for word in ("-i", nic.inside)]
    line = ["doctor", "--disk", str(tmp_path), "--netns", bed.name, *names, "--duration", "50ms", "--json"]
    assert main.run(line) in (0, 1)
    assert " 20 Gbit/s" in capsys.readouterr().out
