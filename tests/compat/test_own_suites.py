"""pcapy-ng's and cypcap's own tests, from their source distributions on PyPI, against theirs and against ours."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

LIMIT_S = 300
SHIM = "import sys\nfrom wirecap.compat import pcapy\nsys.modules[__name__] = pcapy\n"
"""A ``pcapy.py`` that is found before the package."""

CYPCAP_CONFTEST = """
import pathlib
import pytest
OURS, NAME = {ours}, {interface!r}
if OURS:
    import sys
    from wirecap.compat import cypcap
    sys.modules["cypcap"] = cypcap

@pytest.fixture
def interface():
    return NAME

@pytest.fixture
def interface_addresses():
    address = pathlib.Path("/sys/class/net", NAME, "address").read_text().strip()
    return {{17: [{{"addr": address}}], 2: [{{"addr": "10.99.0.1", "netmask": "255.255.255.255"}}]}}
"""
"""What cypcap's tests expect and its distribution lacks; 17 and 2 are AF_PACKET and AF_INET."""


def suites_of(package: str, folder: Path) -> Path:
    """The folder of the tests of the version that is installed; skips the test if it cannot be had."""
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"needs {package}: pip install {package}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", package, "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package}=={version}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip does not get {package}'s source distribution in time")
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        pytest.skip(f"pip does not get {package}'s source distribution: {done.stderr.strip()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("*/tests"))


def run(command: list[str], folder: Path, first: list[Path]) -> str:
    """What the command prints, with these folders first on the path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, first), *sys.path])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S)
    return done.stdout + done.stderr


def outcome(suites: Path, first: list[Path]) -> tuple[int, set[str]]:
    """(how many of pcapy-ng's tests ran, the names of those that failed)"""
    ran, failed = 0, set()
    for command in (["pcapytests.py"], ["-m", "unittest", "test_fast"]):
        told = run([sys.executable, *command], suites, first)
        found = re.findall(r"^Ran (\d+) tests", told, re.MULTILINE)
        assert found, told[-3000:]
        ran += int(found[-1])
        failed |= set(re.findall(r"^(?:FAIL|ERROR): (\w+)", told, re.MULTILINE))
    return ran, failed


def test_pcapy_ngs_tests_pass(tmp_path: Path) -> None:
    """All tests of the classic interface and of the fast path pass, but for two.

    testEOFValue expects as many references to None in the whole process after a file as before, and fails now and then
    with either module; what it is after has a test of our own, test_reading_keeps_no_references.
    testPacketHeaderRefCount expects that nobody else refers to a header: here the reader does, to use it again.
    """
    suites = suites_of("pcapy-ng", tmp_path)
    (tmp_path / "pcapy.py").write_text(SHIM)
    ran, failed = outcome(suites, [tmp_path])
    theirs_ran, theirs_failed = outcome(suites, [])
    assert failed | theirs_failed <= {"testEOFValue", "testPacketHeaderRefCount"}
    assert "testPacketHeaderRefCount" not in theirs_failed
    assert ran == theirs_ran >= 96


@pytest.mark.live
def test_cypcaps_tests_pass(fresh_name: str, tmp_path: Path) -> None:
    """All tests pass with cypcap and with our module, on an interface that the host uses."""
    suites = suites_of("cypcap", tmp_path)
    (suites / "netifaces.py").write_text("AF_PACKET, AF_INET = 17, 2\n")
    name, interface = fresh_name, f"{fresh_name}v"
    for words in (
        f"netns add {name}",
        f"-n {name} link add {interface} type veth peer name {interface}p",
        f"-n {name} addr add 10.99.0.1/32 dev {interface}",
        f"-n {name} link set {interface} addrgenmode none",
        f"-n {name} link set {interface}p addrgenmode none",
        f"-n {name} link set {interface} up",
        f"-n {name} link set {interface}p up",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    command = ["ip", "netns", "exec", name, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for ours in (True, False):
        (suites / "conftest.py").write_text(CYPCAP_CONFTEST.format(ours=ours, interface=interface))
        told = run([*command, "-p", "no:randomly", "--tb=short", "test_cypcap.py"], suites, [suites])
        assert re.search(r"^59 passed", told, re.MULTILINE), told[-3000:]
