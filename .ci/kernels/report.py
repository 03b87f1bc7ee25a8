"""A plugin of pytest, for the guest: a line of JSON for each test that is to run, that begins, and that ends.

The machine may hang in a test, or be stopped; and where a test ended Python itself, the next run leaves out what began.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

RESULTS = Path(os.environ["WIRECAP_RESULTS"])
ENDED = RESULTS.with_name("ended")
SUITE = "the suite's"
"""What stands for the mode where a test is not one of tests/nic."""


def _line(item: pytest.Item, outcome: str, reason: str = "", details: str = "") -> str:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    line = {
        "id": item.nodeid,
        "nic": parameters.get("nic", "veth"),
        "mode": parameters.get("way", "auto" if "nic" in parameters else SUITE),
        "test": item.name,
        "outcome": outcome,
        "reason": next(iter(reason.splitlines()), ""),
        "details": details,
    }
    return json.dumps(line) + "\n"


def _write(*lines: str) -> None:
    with RESULTS.open("a") as file:
        file.write("".join(lines))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    begun = {line["id"] for line in map(json.loads, lines) if line["outcome"] != "planned"}
    items[:] = [item for item in items if item.nodeid not in begun]


def pytest_collection_finish(session: pytest.Session) -> None:
    _write(*(_line(item, "planned") for item in session.items))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    _write(_line(item, "begun"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" or not report.passed:
        reason = ""
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = crash.message if crash else str(report.longrepr)
        _write(_line(item, report.outcome, reason, str(report.longrepr) if report.failed else ""))
    return report


def pytest_sessionfinish() -> None:
    ENDED.touch()
