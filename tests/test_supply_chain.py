"""What the project depends on: bounds, the lock file of the tests, licences, and the audit's way of counting."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements-test.lock").read_text()
EXTRAS = PROJECT["optional-dependencies"]
FOR_TESTS = {"test", "docs"}

COMPATIBLE = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC", "MIT", "MIT-0", "MIT-CMU", "MPL-2.0",
    "PSF-2.0", "Zlib", "Unlicense",
    "CNRI-Python",
    "Apache Software License", "BSD", "BSD License", "ISC License (ISCL)", "MIT License",
    "Mozilla Public License 2.0 (MPL 2.0)",
    "Python Software Foundation License", "Public Domain",
}  # fmt: skip
"""SPDX's names, and those of the classifiers that were used before."""
TESTS_ONLY = {
    "scapy": "GPL-2.0-only: a second opinion on packets, and for users who have it",
    "docutils": "one of its files, an Emacs mode, is under the GPL",
}
"""What is not compatible, or not all of it: no package that WireCAP needs to run, and none of its text is taken."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(texts: list[str]) -> dict[str, metadata.Distribution | None]:
    """All that these requirements bring, as far as it is installed: None for what is not."""
    found: dict[str, metadata.Distribution | None] = {}
    left, seen = [Requirement(text) for text in texts], set[tuple[str, str]]()
    while left:
        wanted = left.pop()
        name = plain(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) in seen or name == "wirecap":
                continue
            seen.add((name, extra))
            try:
                found[name] = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                found[name] = None
                continue
            inner = map(Requirement, found[name].requires or ())
            left += [one for one in inner if one.marker is None or one.marker.evaluate({"extra": extra})]
    return found


def may_be_used(licence: str) -> bool:
    """SPDX's expressions without parentheses; what is not known may not."""
    ways = licence.split(" OR ")
    parts = [[one.partition(" WITH ")[0] for one in way.split(" AND ")] for way in ways]
    return any(all(one in COMPATIBLE for one in way) for way in parts)


def licences(found: metadata.Distribution) -> list[str]:
    """What its metadata says, in the newest of the ways in use."""
    if expression := found.metadata.get("License-Expression"):
        return [expression]
    classifiers = [one.split(" :: ")[-1] for one in found.metadata.get_all("Classifier", []) if one[:7] == "License"]
    return [one for one in classifiers if one != "OSI Approved"] or [found.metadata.get("License") or "none is named"]


def refused(found: dict[str, metadata.Distribution | None]) -> dict[str, list[str]]:
    named = {name: licences(one) for name, one in found.items() if one}
    return {name: texts for name, texts in named.items() if not all(map(may_be_used, texts))}


def runtime() -> list[str]:
    return PROJECT["dependencies"] + [text for name in EXTRAS.keys() - FOR_TESTS for text in EXTRAS[name]]


def test_licences_of_what_users_get() -> None:
    """Everything that WireCAP and its extras need may be used with Apache-2.0."""
    found = closure(runtime())
    assert not refused(found)
    assert not TESTS_ONLY.keys() & found.keys()
    assert any(found.values())


def test_licences_of_what_tests_use() -> None:
    """The same, but for those on the list; none stays on it for nothing."""
    found = closure([text for name in FOR_TESTS for text in EXTRAS[name]])
    assert refused(found).keys() == {name for name in TESTS_ONLY if found.get(name)}


@pytest.mark.parametrize(
    ("licence", "may"),
    [
        ("GPL-2.0-or-later OR Apache-2.0", True),
        ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", True),
        ("BSD-3-Clause AND GPL-3.0-only", False),
        ("none is named", False),
        ("GNU General Public License (GPL)", False),
    ],
)
def test_what_may_be_used(licence: str, may: bool) -> None:
    assert may_be_used(licence) == may


def test_dependencies_have_bounds() -> None:
    """A version that is known to work, and the next one that may break."""
    for text in PROJECT["dependencies"]:
        operators = {one.operator for one in Requirement(text).specifier}
        assert operators == {">=", "<"}, text


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock_file_fits(audit: ModuleType) -> None:
    """Each requirement of the tests is in it, in a version that it allows and with digests; it names no registry."""
    versions = {plain(name): version for name, version in audit.locked(LOCK).items()}
    for text in [*PROJECT["dependencies"], *(text for texts in EXTRAS.values() for text in texts)]:
        wanted = Requirement(text)
        if wanted.name != "wirecap":
            assert wanted.specifier.contains(versions.get(plain(wanted.name), "0")), f"{text}: run make lock"
    assert "://" not in LOCK
    assert "--index" not in LOCK
    blocks = re.split(r"\n(?=\S)", LOCK.partition("make lock\n")[2])
    assert all("--hash=sha256:" in block for block in blocks if block.strip())


def test_what_was_not_audited_counts(audit: ModuleType) -> None:
    """Skipped, unmentioned, in another version or weak: a line each; only a look that found nothing is none."""
    wanted = {"Good_one": "1", "skipped": "2", "missing": "3", "other": "4", "weak": "5"}
    answer = {"dependencies": [
        {"name": "good-one", "version": "1", "vulns": []},
        {"name": "skipped", "skip_reason": "not found"},
        {"name": "other", "version": "3", "vulns": []},
        {"name": "weak", "version": "5", "vulns": [{"id": "CVE-1", "fix_versions": ["6"]}]},
    ]}  # fmt: skip
    assert audit.failures(wanted, answer) == [
        "skipped 2: not audited: not found",
        "missing 3: not audited: the audit does not mention it",
        "other 4: not audited: version 3 was audited instead",
        "weak 5: CVE-1: fixed in 6: make lock takes it",
    ]
    assert audit.shown(wanted, audit.failures(wanted, answer)) == audit.failures(wanted, answer)
    nothing = audit.failures(wanted, {})
    assert len(nothing) == len(wanted)
    (line,) = audit.shown(wanted, nothing)
    assert "pypi.org must be within reach" in line
    assert nothing[0] in line
