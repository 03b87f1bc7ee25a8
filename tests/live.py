"""Tests on real kernel interfaces: what they need, and testbeds that are removed whatever happens.

A test marked ``@pytest.mark.live`` needs root, network namespaces and veth; ``@pytest.mark.live("tcpdump")``
needs that program too.  What is missing is printed as the reason of the skip.  The ``testbed`` fixture makes
veth NICs under a name that only this test has.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from wirecap.errors import UsageError, WirecapError
from wirecap.lab import testbed as lab
from wirecap.linux import netns

PREFIX = "wt"
_serial = itertools.count()


@functools.cache
def missing(*programs: str, testbeds: bool = True) -> str | None:
    """Why live tests cannot run here, or None; testbeds: they make some."""
    if os.geteuid() != 0:
        return "needs root"
    absent = [program for program in programs if not shutil.which(program, path=_path())]
    if absent:
        return f"needs {', '.join(absent)}"
    return _no_testbed() if testbeds else None


def _path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # where Debian has tools for root


@functools.cache
def _no_testbed() -> str | None:
    lab.remove_orphans(PREFIX)
    name = _fresh()
    try:
        lab.up(name, queues=2)
    except (WirecapError, OSError) as error:
        return f"no testbed can be made: {error}"
    finally:
        lab.down(name)
    return None


def _fresh() -> str:
    letters = ""
    number = next(_serial)
    while True:
        letters = chr(ord("a") + number % 26) + letters
        number //= 26
        if not number:
            return f"{PREFIX}{os.getpid()}{letters}"


def _remove(name: str) -> None:
    try:
        lab.down(name)
    except UsageError:  # a test put something else into it
        netns.delete(name)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("live"):
        reason = missing(*mark.args, testbeds="nic" not in item.fixturenames)
        if reason:
            pytest.skip(reason)


@pytest.fixture
def fresh_name() -> Iterator[str]:
    """A testbed name that nobody else has; what is made under it is removed."""
    name = _fresh()
    yield name
    _remove(name)


@pytest.fixture
def testbed() -> Iterator[Callable[..., lab.Testbed]]:
    """``testbed(queues=4, nics=1, mtu=1500, gro=False)`` makes one; all of them are removed after the test."""
    names: list[str] = []

    def make(**shape: int) -> lab.Testbed:
        names.append(_fresh())
        return lab.up(names[-1], **shape)

    yield make
    for name in names:
        _remove(name)
