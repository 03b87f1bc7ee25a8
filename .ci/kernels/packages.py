"""Debian packages of any release, unpacked into a cache folder: nothing is installed, and root is not needed.

apt runs with a configuration of its own.  Its sources are made from the machine's: the same mirror, other suites.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "wirecap", "kernels")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 600


_updated: set[Path] = set()


class UnavailableError(Exception):
    """What this machine lacks, in a sentence."""


class Debian:
    """One or more suites of Debian."""

    def __init__(self, *suites: str, installed: bool = False, architecture: str = "") -> None:
        """installed: what the machine has already need not be unpacked beside a package.

        architecture: of the packages, by Debian's name; "" for this machine's.
        """
        self._root = CACHE / "apt" / "-".join(filter(None, [*suites, architecture, "here" if installed else ""]))
        self._suffix = f".{architecture}" if architecture else ""
        for folder in ("lists/partial", "archives/partial"):
            (self._root / folder).mkdir(parents=True, exist_ok=True)
        status = self._root / "status"
        status.touch()
        sources = self._root / "debian.sources"
        sources.write_text(
            f"Types: deb\nURIs: {_mirror()}\nSuites: {' '.join(suites)}\nComponents: main\nSigned-By: {KEYRING}\n"
        )
        settings = {
            "Dir::State::lists": self._root / "lists",
            "Dir::State::status": "/var/lib/dpkg/status" if installed else status,
            "Dir::Cache": self._root,
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "-",
            "Dir::Etc::preferencesparts": "-",
            "Acquire::Languages": "none",
            "Acquire::Retries": 3,
            "APT::Sandbox::User": "",
            "Debug::NoLocking": 1,
        }
        if architecture:
            settings |= {"APT::Architecture": architecture, "APT::Architectures": architecture}
        self._options = [f"-o{name}={value}" for name, value in settings.items()]
        if sources not in _updated:
            self._apt("apt-get", "update")
            _updated.add(sources)

    def _apt(self, command: str, *arguments: str, folder: Path | None = None) -> str:
        ran = subprocess.run(
            [command, *self._options, "-q", *arguments],
            cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        if ran.returncode:
            reason = next((line for line in ran.stderr.splitlines() if line.startswith("E:")), "E: no reason was given")
            raise UnavailableError(f"{command} {arguments[0]}: {reason.removeprefix('E: ')}")
        return ran.stdout

    def newest(self, pattern: str) -> re.Match[str] | None:
        """The package whose name matches, of the newest version in its name."""
        names = [match for name in self._apt("apt-cache", "pkgnames").split() if (match := re.fullmatch(pattern, name))]
        return max(names, key=lambda match: [int(digits) for digits in re.findall(r"\d+", match[0])], default=None)

    def unpack(self, *packages: str) -> Path:
        """The folder into which the packages, each NAME or NAME=VERSION, have been unpacked together."""
        folder = CACHE / "unpacked" / (re.sub(r"[/:=]", "_", packages[0]) + self._suffix)
        if folder.exists():
            return folder
        downloads, partial = self._root / "archives", folder.with_name(f"{folder.name}.partial")
        partial.mkdir(parents=True, exist_ok=True)
        for old in downloads.glob("*.deb"):
            old.unlink()
        self._apt("apt-get", "download", *packages, folder=downloads)
        for package in downloads.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, partial], check=True, timeout=TIMEOUT_S)
            package.unlink()
        return partial.rename(folder)

    def with_dependencies(self, *packages: str) -> list[str]:
        """The packages and those that they need and this machine lacks, as NAME=VERSION."""
        plan = self._apt("apt-get", "--simulate", "--no-install-recommends", "install", *packages)
        found = [f"{name}={version}" for name, version in re.findall(r"^Inst (\S+) .*?\((\S+)", plan, re.MULTILINE)]
        first = packages[0].partition("/")[0]
        return sorted(found, key=lambda one: not one.startswith(f"{first}="))


def release() -> str:
    """The code name of this machine's Debian."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        text = ""
    if not KEYRING.exists() or not re.search(r"^ID=debian$", text, re.MULTILINE):
        raise UnavailableError("the kernels are Debian's, and so must this machine be")
    return re.search(r"^VERSION_CODENAME=(\w+)", text, re.MULTILINE)[1]


def _mirror() -> str:
    """Where this machine takes its Debian packages from."""
    ran = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    here = release()
    for line in ran.stdout.splitlines():
        uri, _, codename = line.rpartition(" ")
        if codename == here:
            return uri
    raise UnavailableError("apt-get update has not run: the sources of this machine name no mirror")
