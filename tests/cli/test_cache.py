"""Where compiled code is kept, and what a user without a place for it is told."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rig import PCAP_HEADER, pcap_records
from wirecap.kernels.base import cache, image, jit

NOWHERE = "/dev/null/cache"
"""Not even root can make this folder."""
NOBODY = 65534
SMALL = (
    "from wirecap.kernels.base import jit; from wirecap.kernels.pool.pool import give_back; jit.prepare([give_back])"
)
"""A program that compiles what takes the least time."""
compiled = pytest.mark.skipif(jit.PURE, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")


def small(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SMALL], capture_output=True, text=True, timeout=200, cwd=folder,
        env=os.environ | environment, check=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "root"),
    [
        ({"WIRECAP_CACHE_DIR": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
        ({"WIRECAP_CACHE_DIR": "", "XDG_CACHE_HOME": "/x"}, "/x/wirecap"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/wirecap"),
        ({"XDG_CACHE_HOME": "", "HOME": "/usr"}, "/usr/.cache/wirecap"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/usr"}, "/usr/.cache/wirecap"),
        ({"HOME": "/usr"}, "/usr/.cache/wirecap"),
        ({"HOME": "/nowhere"}, None),
    ],
)
def test_where_the_cache_is(monkeypatch, variables, root):
    """Each variable before the next; one that is empty is as good as unset, as is a relative XDG_CACHE_HOME.

    A home that is not there is not made.
    """
    for name in ("WIRECAP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_root() == (root and Path(root))


def test_a_user_without_a_home(monkeypatch):
    """A user whom the password file does not know has no cache of the usual kind, and no error."""
    for name in ("WIRECAP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    assert cache.cache_root() is None


def test_the_private_folder(monkeypatch, tmp_path):
    """Instead of a cache that cannot be written: a folder of the user's own, never one that others may write to."""
    monkeypatch.setenv("WIRECAP_CACHE_DIR", NOWHERE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    private = tmp_path / f"wirecap-{os.geteuid()}"
    folder, note, _ = cache.find_cache()
    assert folder.parent == private
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert NOWHERE in note
    assert str(private) in note
    private.chmod(0o777)
    assert cache.find_cache()[0] is None
    shutil.rmtree(private)
    (tmp_path / "elsewhere").mkdir()
    private.symlink_to(tmp_path / "elsewhere")
    folder, note, _ = cache.find_cache()
    assert folder is None
    assert "each run compiles it again" in note


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home, and a folder for temporary files."""
    for name in ("WIRECAP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "home"


def test_a_new_cache_is_for_its_user_alone(home):
    """Whatever the umask allows, nobody else can put code into a cache that is run."""
    home.mkdir(mode=0o755)
    before = os.umask(0)
    try:
        folder, note, _ = cache.find_cache()
    finally:
        os.umask(before)
    assert note == ""
    assert folder.parent == home / ".cache" / "wirecap"
    for made in (folder, folder.parent, home / ".cache"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


@pytest.mark.parametrize("inner", [False, True])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_cache_that_others_can_write_to(home, monkeypatch, how, inner):
    """It is neither written nor read, and a line says so; WIRECAP_CACHE_DIR is its user's own choice."""
    wanted = home / ".cache" / "wirecap"
    bad = wanted / cache.digest_of(cache.TEXT) if inner else wanted
    bad.mkdir(parents=True)
    if how == "mode":
        bad.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(bad, NOBODY, NOBODY)
    else:
        pytest.skip("needs root, to make a folder of somebody else's")
    folder, note, filled = cache.find_cache()
    assert folder.parent == home.parent / f"wirecap-{os.geteuid()}"
    assert filled is None
    assert note.startswith(f"{bad} belongs to another user, or others can write to it: compiled code is kept in ")
    monkeypatch.setenv("WIRECAP_CACHE_DIR", str(wanted))
    assert cache.find_cache() == (wanted / cache.digest_of(cache.TEXT), "", None)


@pytest.mark.parametrize("inside", ["", ".cache"])
@pytest.mark.parametrize(("mode", "owner", "safe"), [
    (0o755, NOBODY, False), (0o757, 0, False), (0o1757, 0, True), (0o1777, NOBODY, False), (0o755, 0, True),
])  # fmt: skip
def test_a_home_that_others_can_write_to(home, inside, mode, owner, safe):
    """As with HOME kept by sudo: whoever owns a folder above the cache can swap it; nothing is made in there."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a folder of somebody else's")
    folder = home / inside
    folder.mkdir(parents=True)
    folder.chmod(mode)
    os.chown(folder, owner, owner)
    found, note, _ = cache.find_cache()
    assert found.is_relative_to(home) == safe
    assert (not list(folder.iterdir())) != safe
    assert safe or note.startswith(f"{folder} belongs to another user, or others can write to it")


@pytest.mark.skipif(os.geteuid() != os.getegid(), reason="needs a group of the user's own, with the user's number")
def test_a_group_of_the_users_own(home):
    """Where the umask is 002 because each user has a group, folders above the cache may be writable to it."""
    (home / ".cache").mkdir(parents=True)
    (home / ".cache").chmod(0o775)
    assert cache.find_cache().folder.is_relative_to(home)


def test_a_temporary_folder_that_others_own(home, monkeypatch, tmp_path):
    """A TMPDIR in which others can swap folders is no place for a folder of the user's own."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "open"))
    assert cache.find_cache().folder is None
    (tmp_path / "open").chmod(0o1777)
    assert cache.find_cache().folder.is_relative_to(tmp_path / "open")


def test_files_of_others_are_not_run(monkeypatch, tmp_path):
    """A file is looked at before it is believed; one that is not the user's alone is as good as none."""
    monkeypatch.delenv("WIRECAP_CACHE_DIR", raising=False)
    monkeypatch.setattr(cache, "CACHE_DIR", tmp_path)
    path, made = tmp_path / "a.code", image.Image({}, [], [], b"code", 0, 4)
    before = os.umask(0)
    try:
        image.write(path, made)
    finally:
        os.umask(before)
    assert image.read(path) == made, "what is written is the user's alone whatever the umask"
    (tmp_path / "b.code").symlink_to(path)
    assert image.read(tmp_path / "b.code") is None
    os.mkfifo(tmp_path / "c.code")
    assert image.read(tmp_path / "c.code") is None
    path.chmod(0o666)
    assert image.read(path) is None
    monkeypatch.setenv("WIRECAP_CACHE_DIR", str(tmp_path))
    assert image.read(path) == made, "its user's own choice"
    monkeypatch.delenv("WIRECAP_CACHE_DIR")
    path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(path, NOBODY, NOBODY)
        assert image.read(path) is None


@compiled
def test_one_line_names_the_variable(tmp_path):
    """Whoever has to wait for the compiler because of that is told once, with the variable; nothing lands elsewhere."""
    done = small(tmp_path, WIRECAP_CACHE_DIR=NOWHERE, TMPDIR=str(tmp_path))
    assert done.stderr.count("\n") == 1
    assert "set WIRECAP_CACHE_DIR" in done.stderr
    assert small(tmp_path, WIRECAP_CACHE_DIR=NOWHERE, TMPDIR=str(tmp_path)).stderr == ""
    private = tmp_path / f"wirecap-{os.geteuid()}"
    assert len(list(private.rglob("*.code"))) == 1
    assert os.listdir(tmp_path) == [private.name]  # noqa: PTH208


@compiled
def test_without_any_place(tmp_path):
    """Where nothing can be kept, code is compiled for this run alone, and the line says so."""
    program = f"import tempfile; tempfile.tempdir = '/dev/null'; {SMALL}"
    environment = os.environ | {"WIRECAP_CACHE_DIR": NOWHERE}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, env=environment)
    assert done.stderr.count("\n") == 1
    assert "each run compiles it again (set WIRECAP_CACHE_DIR" in done.stderr


@compiled
def test_an_empty_variable_makes_no_folder_here(tmp_path):
    """XDG_CACHE_HOME= is as good as unset: nothing is made in the working directory."""
    (tmp_path / "here").mkdir()
    environment = {"XDG_CACHE_HOME": "", "WIRECAP_CACHE_DIR": "", "HOME": str(tmp_path)}
    assert small(tmp_path / "here", **environment).stderr == ""
    assert not list((tmp_path / "here").iterdir())
    assert list((tmp_path / ".cache" / "wirecap").rglob("*.code"))


@compiled
def test_a_damaged_file_is_compiled_again(tmp_path):
    """What a full disk left half written costs time once, and no error."""
    small(tmp_path, WIRECAP_CACHE_DIR=str(tmp_path))
    (kept,) = tmp_path.rglob("*.code")
    whole = len(kept.read_bytes())
    os.truncate(kept, whole // 2)
    small(tmp_path, WIRECAP_CACHE_DIR=str(tmp_path))
    assert len(kept.read_bytes()) == whole


@compiled
@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_cache_that_can_only_be_read(tmp_path, elsewhere):
    """What an image was filled with is used where nothing can be written to it, or to any other place."""
    filled = tmp_path / "filled"
    small(tmp_path, WIRECAP_CACHE_DIR=str(filled))
    (kept,) = filled.rglob("*.code")
    temporary = str(tmp_path) if elsewhere else "/dev/null"
    program = f"import tempfile; tempfile.tempdir = {temporary!r}; {SMALL}"
    mounts = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    apart = ["unshare", "--mount", "sh", "-c", mounts, str(filled)]
    if subprocess.run([*apart, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("a read-only mount needs root, and a kernel that lets it make one")
    done = subprocess.run(
        [*apart, sys.executable, "-c", program], capture_output=True, text=True, timeout=200, check=True,
        env=os.environ | {"WIRECAP_CACHE_DIR": str(filled)},
    )  # fmt: skip
    assert done.stderr == ""
    assert list(tmp_path.rglob("*.code")) == [kept]


def copy_if_there(source: str, target: str) -> None:
    """What another test's process is making, and names otherwise meanwhile, is left out."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copy2(source, target)


@compiled
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_a_service_user_reads_a_file():
    """A user whose home root has filled runs ``capture -r`` all the same."""
    command = [sys.executable, "-m", "wirecap", "capture", "-r", "a.pcap"]
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.pcap").write_bytes(PCAP_HEADER + pcap_records(176))
        (folder / "home" / ".cache" / "wirecap").mkdir(parents=True)
        subprocess.run(command, cwd=folder, capture_output=True, timeout=200, check=True)  # now it is compiled
        assert cache.CACHE_DIR
        private = folder / f"wirecap-{NOBODY}"
        # what its own first run would compile
        shutil.copytree(cache.CACHE_DIR, private / cache.CACHE_DIR.name, copy_function=copy_if_there)
        for path in (private, *private.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=200, cwd=folder, check=False,
                user=NOBODY, group=NOBODY, extra_groups=[],
                env=environment | {"HOME": str(folder / "home"), "TMPDIR": name, "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip
        except PermissionError:
            pytest.skip(f"{sys.executable} is not for others")
    if "No module named" in done.stderr:
        pytest.skip("this checkout is not for others")
    assert done.returncode == 0, done.stderr
    assert "176 packets read" in done.stderr
