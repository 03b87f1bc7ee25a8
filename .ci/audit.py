"""audit.py [LOCK]: whether a weakness is known of a package in the lock file.

pip-audit asks pypi.org, and uv runs it in an environment of its own.  A package that it could not look up counts as
failed: where pypi.org answers nothing but what an index of packages does, that is each of them.
Status 0: no weakness is known of any; 1: one is, or not all were looked at.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

LOCK = Path(__file__).parent.parent / "requirements-test.lock"
AUDIT = ["-m", "uv", "tool", "run", "pip-audit>=2.7", "--format", "json", "--progress-spinner", "off", "--disable-pip"]


def locked(text: str) -> dict[str, str]:
    """Names and versions in a lock file, of what it has for this Python and system."""
    lines = re.findall(r"^([A-Za-z0-9][^#\\\n]*?) *\\?$", text, re.MULTILINE)
    found = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    return {one.name: str(one.specifier).removeprefix("==") for one in found}


def failures(wanted: dict[str, str], answer: dict[str, Any]) -> list[str]:
    """A line for each package that has a known weakness, or of which nothing is known."""
    rows = {_plain(row["name"]): row for row in answer.get("dependencies", ())}
    lines = []
    for name, version in wanted.items():
        row = rows.get(_plain(name), {"skip_reason": "the audit does not mention it"})
        if "vulns" not in row or row.get("version") != version:
            reason = row.get("skip_reason") or f"version {row.get('version')} was audited instead"
            lines.append(f"{name} {version}: not audited: {reason}")
        lines += [f"{name} {version}: {weak['id']}: {_way_out(weak)}" for weak in row.get("vulns", ())]
    return lines


def shown(wanted: dict[str, str], lines: list[str]) -> list[str]:
    """The lines, but one for all where nothing could be looked up."""
    if wanted and sum(": not audited: " in line for line in lines) == len(wanted):
        return [f"not one package could be looked up (pypi.org must be within reach): {lines[0]}, and so on"]
    return lines


def _way_out(weak: dict[str, Any]) -> str:
    fixed = ", ".join(weak.get("fix_versions", ()))
    return f"fixed in {fixed}: make lock takes it" if fixed else "not fixed yet"


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(lock: str = str(LOCK)) -> int:
    wanted = locked(Path(lock).read_text())
    done = subprocess.run(
        [sys.executable, *AUDIT, "--require-hashes", "--requirement", lock],
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        print(done.stderr.strip() or "pip-audit said nothing", file=sys.stderr)
        answer = {}
    lines = failures(wanted, answer)
    print("\n".join([*shown(wanted, lines), f"{len(wanted)} packages, {len(lines)} findings"]))
    return 1 if lines or not wanted else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
