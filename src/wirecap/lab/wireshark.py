"""The Wireshark that is installed here: where it looks for extcap programs, as it says itself."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from wirecap.errors import UsageError, WirecapError
from wirecap.lab import process

PROGRAMS = ("tshark", "wireshark")
"""Both know the folders; the first needs no screen for it."""


@dataclass(frozen=True)
class Wireshark:
    """program: its path.  version: its own words.  user, everybody: folders of extcap programs, perhaps missing."""

    program: str
    version: str
    user: Path
    everybody: Path


def installed(program: str | None = None) -> Wireshark:
    """The Wireshark on the PATH, or the one that is named; UsageError if there is none, or if it tells no folders."""
    found = process.find(program) if program else next(filter(None, map(process.find, PROGRAMS)), None)
    if found is None:
        what = f"{program}: no such program" if program else "Wireshark is not installed here"
        hint = "apt install wireshark, or tshark; --program PATH names one that is not on the PATH"
        raise UsageError(what, hint)
    try:
        folders = _folders(process.run([found, "-G", "folders"]).output)
        version = process.run([found, "--version"]).output
    except (OSError, WirecapError) as error:
        raise UsageError(f"{found}: cannot be run: {error}", "name Wireshark or tshark with --program PATH") from None
    everybody = folders.get("Global Extcap path") or folders.get("Extcap path")
    user = folders.get("Personal Extcap path")
    if not user and "Personal configuration" in folders:  # before 4.2
        user = f"{folders['Personal configuration']}/extcap"
    if not everybody or not user:
        raise UsageError(
            f"{found} -G folders names no extcap folder", "use a newer Wireshark, or name its folder with --folder DIR"
        )
    said = re.search(r"^\S.*?\d+\.\d+\.\d+", version, re.MULTILINE)
    return Wireshark(found, said[0] if said else Path(found).name, Path(user), Path(everybody))


def _folders(output: str) -> dict[str, str]:
    """``Personal configuration: /home/me/.config/wireshark`` and the like, by what stands before the colon."""
    rows = (line.partition(":") for line in output.splitlines())
    return {name.strip(): path.strip() for name, _, path in rows if path.strip().startswith("/")}
