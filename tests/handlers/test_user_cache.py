"""Compiled handlers on disk: found again by what they are made of, and by nothing else."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

from wirecap.handlers.user import load_handler
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.handlers.user import digest_of

MODULE = """
import math
import numba
import numpy as np
import wirecap
import beside

PORT = 53
TABLE = np.arange(4)
class Mine(Exception): pass

@numba.njit
def helper(x):
    return x + 1

def using(packet, state):
    state.n += packet.udp.dst_port == PORT
def calling(packet, state):
    state.n += helper(1) + beside.step(2)
def indexing(packet, state):
    state.n += TABLE[1] + int(math.sqrt(4.0)) + np.uint8(3)
def raising(packet, state):
    raise Mine("x")
"""
BESIDE = "import numba\n@numba.njit\ndef step(x):\n    return x + 10\n"


DEEP = """
import collections
import numba
import numpy as np
import pkg
import pkg.settings
PAIR = collections.namedtuple("Pair", "low high")(1, 2)

@numba.njit(fastmath=False)
def helper(x): return x + 1
@numba.vectorize
def each(x): return x + 1
def plain(x): return x + 1

def through(packet, state): state.n += packet.udp.dst_port == pkg.settings.PORT
def three(packet, state): state.n += pkg.settings.inner.DEEPER
def renamed(packet, state):
    settings = pkg.settings
    state.n += settings.PORT
def by_text(packet, state): state.n += getattr(pkg.settings, "PORT")
def _closing(settings=pkg.settings):
    def closed(packet, state): state.n += settings.PORT
    return closed
closed = _closing()
def pair(packet, state): state.n += PAIR.low
def optioned(packet, state): state.n += helper(1)
def vectorised(packet, state): state.n += each(1)
def registered(packet, state): state.n += plain(1)
"""
THROUGH = {"through", "renamed", "by_text", "closed"}


@pytest.fixture
def deep(tmp_path, monkeypatch):
    """The digests of the functions of DEEP, with these settings."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").touch()

    def read(port: int = 80, deeper: int = 1, change: tuple[str, str] = ("", "")) -> dict[str, str | None]:
        (tmp_path / "pkg" / "inner.py").write_text(f"DEEPER = {deeper}")
        (tmp_path / "pkg" / "settings.py").write_text(f"PORT = {port}\nfrom pkg import inner")
        for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        names: dict[str, Any] = {"__name__": "deep"}
        exec(compile(DEEP.replace(*change), "deep.py", "exec"), names)
        wanted = (*THROUGH, "three", "pair", "optioned", "vectorised", "registered")
        return {name: digest_of(names[name]) for name in wanted}

    yield read
    for name in [name for name in sys.modules if name.partition(".")[0] == "pkg"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({}, set()),
        ({"port": 443}, THROUGH),
        ({"deeper": 2}, {"three"}),
        ({"change": ("low high", "high low")}, {"pair"}),
        ({"change": ("fastmath=False", "fastmath=True")}, {"optioned"}),
    ],
)
def test_digest_sees_through_modules_and_into_helpers(deep, change, differ):
    """A constant at any depth of modules changes the digest; so do a helper's options, and the order of fields."""
    before, after = deep(), deep(**change)
    assert {name for name in before if before[name] != after[name]} == differ
    assert {name for name in before if before[name] is None} == {"vectorised", "registered"}


@pytest.fixture
def digests(tmp_path, monkeypatch):
    """The digests of the functions of the module, changed as asked; always in the same files."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file of the same second and size would not be read
    monkeypatch.setattr(sys, "path", sys.path[:])

    def read(change=("", ""), beside=("", "")) -> dict[str, str | None]:
        (tmp_path / "beside.py").write_text(BESIDE.replace(*beside))
        (tmp_path / "mine.py").write_text(MODULE.replace(*change))
        for name in ("mine", "beside"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        names = ("using", "calling", "indexing", "raising")
        return {name: digest_of(load_handler(f"{tmp_path}/mine.py:{name}").function) for name in names}

    yield read
    for name in ("mine", "beside"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("change", "beside", "differ"),
    [
        (("", ""), ("", ""), set()),
        (("PORT = 53", "PORT = 80"), ("", ""), {"using"}),
        (("return x + 1", "return x + 2"), ("", ""), {"calling"}),
        (("", ""), ("x + 10", "x + 11"), {"calling"}),
        (("np.arange(4)", "np.arange(5)"), ("", ""), {"indexing"}),
        (("np.arange(4)", "np.arange(4.0)"), ("", ""), {"indexing"}),
        (("raise Mine", "raise ValueError"), ("", ""), {"raising"}),
        (("np.uint8(3)", "np.uint8(4)"), ("", ""), {"indexing"}),
    ],
)
def test_digest_changes_with_what_a_handler_uses(digests, change, beside, differ):
    """A constant, an array, a helper or another module's helper changes the digest of what uses it, and of no other."""
    before, after = digests(), digests(change, beside)
    assert {name for name in before if before[name] != after[name]} == differ
    assert None not in before.values()


def test_no_digest_of_what_can_change_unseen():
    """A function that refers to an object of unknown kind is not kept."""
    unknown = object()

    def handler(packet, state):
        unknown  # noqa: B018

    assert digest_of(handler) is None


def test_digest_tells_types_apart():
    """1, 1.0 and True are different constants; so are states of different fields."""

    def make(value):
        def handler(packet, state):
            return value

        return handler

    assert len({digest_of(make(value)) for value in (1, 1.0, True, np.int8(1), "1", (1,), (1.0,))}) == 7
    assert digest_of(make(1), ("n", "int64")) != digest_of(make(1), ("n", "int32"))


@pytest.mark.skipif(PURE, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")
def test_a_second_run_finds_what_the_first_compiled(tmp_path, mixed_trace):
    """The first run says that it compiles the handler, the second does not; an edited handler is compiled anew."""
    path = tmp_path / "mine.py"

    def run(number: int) -> tuple[int, bool]:
        text = f"""
            import wirecap
            @wirecap.handler
            def once(packet, state):
                state.n += {number}
            """
        path.write_text(textwrap.dedent(text))
        command = [sys.executable, "-m", "wirecap", "capture", "-r", str(mixed_trace), "-c", "10"]
        done = subprocess.run(
            [*command, "--handler", f"{path}:once"], capture_output=True, text=True, timeout=110, check=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        return json.loads(done.stdout)["once"]["n"], "compiling handler once" in done.stderr

    assert run(3) == (30, True)
    assert run(3) == (30, False)
    assert run(4) == (40, True)
