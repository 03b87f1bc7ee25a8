"""The wheel, installed into an empty environment, captures; it and the sdist hold what they should and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from rig import PCAP_HEADER, pcap_records
from wheels import ROOT, built, installed_alone, run
from wirecap import __version__
from wirecap.cli import main
from wirecap.kernels.base.cache import cache_root
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

COMMANDS = [name for commands in main.SECTIONS.values() for name in commands]
SHARE = {
    "share/bash-completion/completions/wirecap", "share/fish/vendor_completions.d/wirecap.fish",
    "share/zsh/site-functions/_wirecap",
    "share/man/man1/wirecap.1", *(f"share/man/man1/wirecap-{name}.1" for name in COMMANDS),
}  # fmt: skip


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("dist"), "sdist", "wheel")


def contents(folder: Path) -> set[str]:
    """What a wheel installs: the package's files, those under share, and its metadata, without versions."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        return {re.sub(r"^wirecap-[\w.]+\.(data/data|dist-info)/", r"\1/", name) for name in file.namelist()}


def test_contents(dist: Path) -> None:
    """The wheel has each module, py.typed, manual pages, completion, examples and licence; no tests, no caches."""
    found = contents(dist)
    package = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src/wirecap").rglob("*.py")}
    assert {name for name in found if name.endswith(".py") and name.startswith("wirecap/")} == package
    assert "wirecap/py.typed" in found
    assert {name.removeprefix("data/data/") for name in found if name.startswith("data/data/")} == SHARE
    meta = {name.removeprefix("dist-info/") for name in found if name.startswith("dist-info/")}
    assert meta == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert not [name for name in found if name.split("/")[0] not in ("wirecap", "data", "dist-info")]
    assert not [name for name in found if "__pycache__" in name or "test" in Path(name).name.split("_")]


def test_a_wheel_from_the_sdist_is_the_same(dist: Path, tmp_path: Path) -> None:
    """The sdist has all that a wheel is made of, and all that ``make test`` needs; both come out bit for bit."""
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = built(source, tmp_path / "dist", "sdist", "wheel")
    assert contents(again) == contents(dist)
    for path in dist.iterdir():  # made at another time, elsewhere, of files with other times and owners
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name
    for name in ("tests/test_wheel.py", "docs/index.md", "bench/count.py", "Makefile", ".ci/tests", "LICENSE"):
        assert (source / name).exists(), name


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it depends on, and nothing else."""
    (wheel,) = dist.glob("*.whl")
    return installed_alone(wheel, tmp_path_factory.mktemp("installed") / "venv")


def test_installed_alone(installed: Path, tmp_path: Path) -> None:
    """The installed command says its version, reads a file, converts it, and finds nothing missing."""
    command, trace = installed / "bin/wirecap", tmp_path / "trace.pcap"
    trace.write_bytes(PCAP_HEADER + pcap_records(20))
    assert run(command, "--version", cwd=tmp_path).stdout == f"wirecap {__version__}\n"
    where = run(installed / "bin/python", "-c", "import wirecap; print(wirecap.__file__)", cwd=tmp_path).stdout
    assert Path(where.strip()).is_relative_to(installed)
    read = run(command, "capture", "-r", trace, "-w", "out.pcapng.zst", "udp or not udp", cwd=tmp_path)
    assert read.returncode == 0, read.stderr
    assert "20 packets read" in read.stderr
    assert run(command, "convert", "out.pcapng.zst", "-w", "out.pcap.lz4", cwd=tmp_path).returncode == 0
    script = (
        "import sys; from wirecap.cli.main import run; sys.exit(any([run([name, '--help']) for name in sys.argv[1:]]))"
    )
    helped = run(installed / "bin/python", "-c", script, *COMMANDS, cwd=tmp_path)
    assert helped.returncode == 0, helped.stderr
    assert {str(path.relative_to(installed)) for path in (installed / "share").rglob("*") if path.is_file()} >= SHARE


def test_man_finds_the_pages(installed: Path) -> None:
    """Where ``share/man`` of the environment is in the manpath, ``man wirecap-capture`` is the page."""
    if not shutil.which("man"):
        pytest.skip("needs man")
    done = run("man", "-M", installed / "share/man", "wirecap-capture")
    assert "wirecap capture -i eth1 -w out.pcapng tcp port 443" in done.stdout


@pytest.mark.live
def test_installed_captures(installed: Path, testbed: Callable[..., Testbed], tmp_path: Path) -> None:
    """The installed command captures live packets into a file."""
    bed = testbed(queues=1)
    out = tmp_path / "out.pcap"
    command = [
        installed / "bin/wirecap",
        "capture",
        "--netns",
        bed.name,
        "-i",
        bed.nics[0].inside,
        "-c",
        100,
        "-w",
        out,
    ]
    environment = os.environ | {"WIRECAP_CACHE_DIR": str(cache_root()), "PYTHONPATH": ""}
    with subprocess.Popen(
        list(map(str, command)), cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    ) as capture:
        assert capture.stderr
        said = ""
        for line in capture.stderr:
            said += line
            if "capturing on" in line:
                break
        with LiveFrames(bed.nics[0].outside, synthetic.udp(60), sequence_at=42) as sender:
            left = 100
            while left:  # what the veth's own queue has no room for is not taken
                left -= sender.send(left)
        said += capture.stderr.read()
        assert capture.wait(timeout=60) == 0, said
    assert "100 packets captured" in said
    assert out.stat().st_size == 24 + 100 * (16 + 60)


def test_uvx(dist: Path, installed: Path, tmp_path: Path) -> None:
    """``uvx --from WHEEL wirecap`` runs without anything being installed."""
    (wheel,) = dist.glob("*.whl")
    done = run(sys.executable, "-m", "uv", "tool", "run", "--python", sys.executable, "--from", wheel, "wirecap",
               "--version", cwd=tmp_path)  # fmt: skip
    assert done.stdout == f"wirecap {__version__}\n", done.stderr
