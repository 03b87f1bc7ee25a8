"""Files in folders that everybody may write to: for their user alone, and none that somebody has put there for us."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from wirecap.cli import main
from wirecap.errors import UsageError
from wirecap.files import shared, writer

OTHER = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As /tmp is."""
    found = tmp_path / "shared"
    found.mkdir()
    found.chmod(0o1777)
    return found


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_is_its_users_alone(folder: Path, tmp_path: Path) -> None:
    """0600 in a shared folder, the umask's mode in any other."""
    before = os.umask(0o022)
    try:
        for path, mode in ((folder / "x.pcap", 0o600), (tmp_path / "x.pcap", 0o644)):
            os.close(writer.open_file(str(path)))
            assert mode_of(path) == mode
            path.unlink()
            shared.write_text(path, "text")
            assert (mode_of(path), path.read_text()) == (mode, "text")
            shared.write_text(path, "new")
            assert path.read_text() == "new"
    finally:
        os.umask(before)


def test_links_lead_nowhere(folder: Path, tmp_path: Path) -> None:
    """A symbolic link and a second name of another file are refused; elsewhere links are followed."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    (folder / "soft").symlink_to(victim)
    (folder / "hard").hardlink_to(victim)
    for name, why in (("soft", "symbolic link"), ("hard", "second name")):
        with pytest.raises(UsageError, match=f"{name}: .*{why}.* everybody may write"):
            writer.open_file(str(folder / name), empty=True)
        with pytest.raises(PermissionError, match=why):
            shared.write_text(folder / name, "lost")
    assert victim.read_text() == "kept"
    (tmp_path / "link").symlink_to(victim)
    shared.write_text(tmp_path / "link", "new")
    assert victim.read_text() == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make another user's file")
def test_a_file_of_somebody_else(folder: Path) -> None:
    """It is refused, and not emptied."""
    theirs = folder / "theirs.pcap"
    theirs.write_text("theirs")
    os.chown(theirs, OTHER, OTHER)
    with pytest.raises(UsageError, match="another user"):
        writer.open_file(str(theirs), empty=True)
    assert theirs.read_text() == "theirs"


def test_the_command_says_it_in_one_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "victim").write_text("kept")
    (folder / "out.json").symlink_to(tmp_path / "victim")
    source = tmp_path / "in.pcap"
    source.write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    assert main.run(["capture", "-r", str(source), "--json", str(folder / "out.json")]) != 0
    told = [line for line in capfd.readouterr().err.splitlines() if "out.json" in line]
    assert len(told) == 1
    assert "a symbolic link in a folder that everybody may write to" in told[0]
    assert (tmp_path / "victim").read_text() == "kept"
