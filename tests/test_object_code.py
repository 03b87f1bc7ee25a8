"""Object code in a wheel: the first run with it compiles nothing, and what does not fit is as good as not there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rig import PCAP_HEADER, pcap_records
from wheels import ROOT, built, installed_alone, run
from wirecap.kernels.base import cache, shipped

LEVELS = shipped.LEVELS.get(os.uname().machine, {})
pytestmark = pytest.mark.skipif(not LEVELS, reason="no level of this machine's processors is known")
LOWEST = list(LEVELS)[-1] if LEVELS else ""
PACKETS = 20


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "trace.pcap"
    path.write_bytes(PCAP_HEADER + pcap_records(PACKETS))
    return path


@pytest.fixture(scope="module")
def code(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``.ci/object_code.py`` makes for the lowest level, but only what reading a file needs."""
    spec = importlib.util.spec_from_file_location("object_code", ROOT / ".ci/object_code.py")
    assert spec
    assert spec.loader
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path_factory.mktemp("code")
    made = script.compile_for(LOWEST, folder / shipped.digest_of(cache.TEXT) / LOWEST, "capture", "-r", str(trace))
    assert made > 3
    return folder


@pytest.fixture(scope="module")
def wheel(code: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    (wheel,) = built(ROOT, folder, "wheel", environment={"WIRECAP_OBJECT_CODE": str(code)}).glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed_alone(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty folder in place of the package's own, in this process, whose processor can do everything."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    monkeypatch.setattr(shipped, "features", lambda: frozenset().union(*LEVELS.values()))
    for name in ("NUMBA_BOUNDSCHECK", "NUMBA_CPU_NAME", "NUMBA_OPT"):
        monkeypatch.delenv(name, raising=False)
    shipped.folder.cache_clear()
    yield tmp_path
    shipped.folder.cache_clear()


def fill(folder: Path, text: bytes = cache.TEXT) -> Path:
    """Make a folder for each level; returns where they are."""
    found = folder / shipped.digest_of(text)
    for level in LEVELS:
        (found / level).mkdir(parents=True)
    return found


def test_first_run_compiles_nothing(installed: Path, trace: Path, tmp_path: Path) -> None:
    """With an empty cache it says and keeps nothing of compiling, and reads what compiled kernels read."""
    said = {}
    for name in (str(tmp_path / "empty"), str(cache.cache_root())):
        done = run(installed / "bin/wirecap", "capture", "-r", trace, environment={"WIRECAP_CACHE_DIR": name})
        assert done.returncode == 0, done.stderr
        said[name] = done.stderr
    first, warm = said.values()
    assert "compiling" not in first
    assert f"{PACKETS} packets read" in first
    assert first == "".join(line for line in warm.splitlines(keepends=True) if "compiling" not in line)
    assert not list((tmp_path / "empty").rglob("*.code"))


def test_a_file_that_is_not_whole_is_compiled(installed: Path, trace: Path, tmp_path: Path) -> None:
    """Only the kernel whose file was cut short is compiled."""
    (path,) = (installed / "lib").rglob("pool.work_queues.wake_consumer.code")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    try:
        done = run(installed / "bin/wirecap", "capture", "-r", trace, environment={"WIRECAP_CACHE_DIR": str(tmp_path)})
    finally:
        path.write_bytes(whole)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "compiling" in line] == [
        "wirecap: compiling pool.work_queues.wake_consumer (once)"
    ]
    assert f"{PACKETS} packets read" in done.stderr
    assert [path.name for path in tmp_path.rglob("*.code")] == ["pool.work_queues.wake_consumer.code"]


def test_doctor_says_what_it_is(installed: Path, tmp_path: Path) -> None:
    """``doctor`` names the level, what is missing, and the command that compiles."""
    done = run(installed / "bin/wirecap", "doctor", environment={"WIRECAP_CACHE_DIR": str(tmp_path)})
    assert f"from the package's object code, for any {LOWEST}" in done.stdout
    assert "wirecap warmup" in done.stdout


def test_a_folder_without_object_code_makes_no_wheel(tmp_path: Path) -> None:
    """A wheel that was to have object code does not silently go without."""
    environment = {"WIRECAP_OBJECT_CODE": str(tmp_path / "none")}
    done = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT,
               environment=environment)  # fmt: skip
    assert done.returncode
    assert "no object code is there" in done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_the_best_level_that_the_processor_has(folder: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Code for a processor with more features than this one is not taken."""
    found = fill(folder)
    monkeypatch.setattr(shipped, "features", lambda: LEVELS[level] | {"fpu"})
    assert shipped.folder() == found / level
    for other in LEVELS:
        if LEVELS[other] <= LEVELS[level]:
            (found / other).rmdir()
    shipped.folder.cache_clear()
    assert shipped.folder() is None


def test_a_processor_without_the_lowest_level(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None fits a processor that lacks a feature of the lowest level."""
    fill(folder)
    monkeypatch.setattr(shipped, "features", lambda: frozenset(sorted(LEVELS[LOWEST])[1:]))
    assert shipped.folder() is None


def test_another_text_of_the_kernels(folder: Path, tmp_path: Path) -> None:
    """Code of kernels with another text is not taken."""
    copy = tmp_path / "copy" / "kernels"
    shutil.copytree(cache.ROOT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert cache.text_of(copy) == cache.TEXT
    edited = copy / "pool" / "pool.py"
    edited.write_text(edited.read_text() + "# edited\n")
    fill(folder, cache.text_of(copy))
    assert shipped.folder() is None


@pytest.mark.parametrize("setting", ["NUMBA_BOUNDSCHECK", "NUMBA_OPT"])
def test_numba_is_to_make_other_code(folder: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    """Kernels that check bounds, or are compiled otherwise, are compiled here."""
    found = fill(folder)
    assert shipped.folder() == found / next(iter(LEVELS))
    shipped.folder.cache_clear()
    monkeypatch.setenv(setting, "1")
    assert shipped.folder() is None


@pytest.mark.parametrize("part", ["numpy", "numba", "machine", "python"])
def test_another_layout_of_what_is_passed(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The digest has what the code relies on: NumPy's dtypes, Numba's calls, the machine."""
    before = shipped.digest_of(cache.TEXT)
    if part == "numpy":
        monkeypatch.setattr(shipped, "element_word", lambda element: 1)
    elif part == "numba":
        monkeypatch.setattr(shipped, "texts_of", lambda *names: [b"another convention"])
    elif part == "python":
        monkeypatch.setattr(shipped, "HEAD_BYTES", 32)
    else:
        monkeypatch.setattr(shipped.os, "uname", lambda: os.uname_result(("Linux", "", "", "", "riscv64")))
    assert shipped.digest_of(cache.TEXT) != before
