"""An arm64 Linux without an arm64 processor: QEMU translates Debian's Python, and nothing is installed.

Python and its libraries are Debian's for arm64, NumPy and the like PyPI's wheels in the versions of this environment.
Kernels are compiled on this machine (arm64_kernels.py), and filters there: LLVM is, but no Numba.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / ".ci" / "kernels"))

from packages import CACHE, Debian, UnavailableError, release

ROOT = Path(__file__).parent.parent
DEBIAN = "python3 libstdc++6 libpcap0.8".split()
PACKAGES = "click llvmlite numpy lz4 zstandard prometheus-client pyroute2 rich hypothesis pytest".split()
"""What a capture and the tests import.  Of cypcap PyPI has no wheel for arm64."""
PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37))]
NEWER = "trixie"
"""The first Debian whose qemu-user needs no libraries, so that any other can run it."""
TIMEOUT_S = 3600
FOLDER = CACHE / "arm64"
_PLACE = "from wirecap.kernels.base.cache import CACHE_DIR; print(CACHE_DIR)"


class Python:
    """A Python that runs WireCAP from this checkout, with a folder of its own for compiled kernels."""

    def __init__(self, name: str, command: list[str | Path], path: list[Path]) -> None:
        self._command, self._folder = command, FOLDER / name
        places = [*path, ROOT / "src", ROOT / "bench"]
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))},
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONPYCACHEPREFIX": str(self._folder / "bytecode"),
            "PYTHONNOUSERSITE": "1",
            "WIRECAP_CACHE_DIR": str(self._folder / "code"),
            "WIRECAP_TEST_PATIENCE": "30",
        }

    def run(self, *arguments: str | Path, checked: bool = False) -> str:
        """What it prints.  Ends the program if it fails; checked: with kernels that check bounds."""
        ran = subprocess.run(
            [*self._command, "-P", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S,
            env=self._environment | ({"NUMBA_BOUNDSCHECK": "1"} if checked else {}),
        )  # fmt: skip
        if ran.returncode:
            command = " ".join(map(str, arguments))
            sys.exit(f"{ran.stdout}{ran.stderr}{self._folder.name}: {command}: ended with {ran.returncode}")
        return ran.stdout

    def kernels(self, checked: bool) -> Path:
        """The folder of compiled kernels."""
        return Path(self.run("-c", _PLACE, checked=checked).strip())

    def version(self) -> str:
        """Of Python and NumPy."""
        text = "import numpy, platform as p; print('Python', p.python_version(), 'and NumPy', numpy.__version__)"
        return self.run("-c", text).strip()


def here() -> Python:
    """This machine's."""
    return Python("here", [sys.executable], [])


def emulated() -> tuple[Python, str]:
    """An arm64 processor's, and QEMU's version; raises UnavailableError where it cannot be had."""
    qemu, root = _unpacked()
    told = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    python = (root / "usr/bin/python3").resolve()
    path = [_wheels(python.name.removeprefix("python")), _libpcap(root)]
    return Python("there", ["nice", qemu, "-L", root, python], path), re.search(r"version (\S+)", told)[1]


def _unpacked() -> tuple[Path, Path]:
    """QEMU, and the root of arm64's files; apt is asked when they are not there yet."""
    suite = release()
    known = FOLDER / suite
    found = [Path(line) for line in known.read_text().splitlines()] if known.exists() else []
    if not found or not all(path.exists() for path in found):
        debian = Debian(suite, architecture="arm64")
        root = debian.unpack(*debian.with_dependencies(*DEBIAN))
        found = [Debian(NEWER).unpack("qemu-user") / "usr/bin/qemu-aarch64", root]
        FOLDER.mkdir(exist_ok=True)
        known.write_text("\n".join(map(str, found)))
    return found[0], found[1]


def _libpcap(root: Path) -> Path:
    """A folder with a package that stands in for cypcap: filters take only its libpcap, and this one has Debian's."""
    folder = FOLDER / "libpcap"
    (folder / "cypcap").mkdir(parents=True, exist_ok=True)
    library = next(root.glob("usr/lib/*/libpcap.so.0.8"))
    (folder / "cypcap/__init__.py").touch()
    (folder / "cypcap/_cypcap.py").write_text(f"__file__ = {str(library)!r}\n")
    return folder


def _wheels(version: str) -> Path:
    """The folder of PyPI's packages for arm64 and a version of Python."""
    known = {f"{one.name}=={one.version}" for one in distributions() if one.name in PACKAGES}
    text = "\n".join([version, *sorted(known)])
    folder = FOLDER / f"packages-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", partial]
    command += ["--only-binary=:all:", "--python-version", version, *(f"--platform={one}" for one in PLATFORMS)]
    ran = subprocess.run([*command, *sorted(known)], capture_output=True, text=True, timeout=TIMEOUT_S)
    if ran.returncode:
        reason = next((line for line in ran.stderr.splitlines() if line.startswith("ERROR: ")), "it gave no reason")
        raise UnavailableError(f"pip has not the packages for arm64: {reason.removeprefix('ERROR: ')}")
    return partial.rename(folder)
