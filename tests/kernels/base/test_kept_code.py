"""Compiled code on disk: what is whole and fits is called without Numba, anything else is compiled again."""

from __future__ import annotations

import hashlib
import marshal
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wirecap.files.headers import pcap_header
from wirecap.kernels.base import cache, image, jit
from wirecap.kernels.base.jit import PURE, kernel, prepare
from wirecap.kernels.base.kinds import boolean, f64, i64, none, record, table, words
from wirecap.kernels.pool.offload_policy import decide

pytestmark = pytest.mark.skipif(PURE, reason="nothing is compiled under NUMBA_DISABLE_JIT=1")


@kernel(i64(words, i64))
def element(array, i):
    return array[i]


@kernel(boolean(i64, i64))
def divides(a, b):
    return b % a == 0


@kernel(none(words, f64))
def fill(array, value):
    for i in range(array.size):
        array[i] = value


@kernel(i64(words, table, i64))
def total(array, rows, more):
    for i in range(rows.shape[0]):
        more += array[i] * rows[i, rows.shape[1] - 1]
    return more


def image_of(one: jit.Kernel) -> image.Image:
    prepare([one])
    found = image.first_of(folder / f"{one.name}.code" for folder in cache.folders())
    if found is None:
        pytest.skip("nothing is kept here")
    return found


def test_arguments_and_results():
    """Numbers, arrays of one and two dimensions, and what is returned, are what Python's own would be."""
    array = np.arange(5)
    assert element(array, 3) == 3
    assert element(array, np.uint8(4)) == 4
    assert divides(7, 21) is True
    assert divides(7, 22) is False
    assert fill(array, 2.5) is None
    assert array.tolist() == [2] * 5
    assert total(np.array([1, -2]), np.array([[0, 0, 5], [0, 0, 7]]), -1) == 5 - 14 - 1
    assert total(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), 9) == 9


@pytest.mark.parametrize(
    "wrong",
    [np.arange(8)[::2], np.zeros(4, np.int32), np.zeros(4, ">i8"), np.zeros((2, 2), np.int64), np.zeros(4), 5, None,
     [1, 2], b"12345678", np.dtype(np.int64), object()],
    ids=lambda wrong: type(wrong).__name__,
)  # fmt: skip
def test_an_array_that_does_not_fit_is_refused(wrong):
    """The code is never let loose on memory that it was not compiled for."""
    with pytest.raises(TypeError, match="element: array 1 of its arguments is not a C-contiguous, writable array of"):
        element(wrong, 0)


def test_an_array_that_must_not_be_written_is_refused():
    array = np.arange(4)
    array.flags.writeable = False
    with pytest.raises(TypeError, match="writable"):
        element(array, 0)


@pytest.mark.parametrize("given", [(), (np.arange(4),), (np.arange(4), 1.5), (np.arange(4), 1 << 63), (1, 2, 3)])
def test_other_arguments_that_do_not_fit(given):
    """Too few, too many, or no 64-bit number."""
    with pytest.raises(TypeError, match="element"):
        element(*given)


def test_an_exception_arrives_as_itself():
    """Kernels raise nothing, but Python's division does; bounds-checked runs raise in the same way."""
    with pytest.raises(ZeroDivisionError, match="modulo by zero"):
        divides(0, 1)


def test_a_record_has_all_its_fields():
    with pytest.raises(AssertionError, match="Image has 6 fields"):
        record(image.Image, words)


def test_a_file_that_was_cut_short_or_damaged(tmp_path):
    """Wherever it was cut, and whichever byte is another one: there is no image, and no error."""
    path = tmp_path / "a.code"
    image.write(path, image_of(decide))
    whole = path.read_bytes()
    assert image.read(path) == image_of(decide)
    for length in (0, 1, 31, 32, 33, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert image.read(path) is None
    for place in range(0, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert image.read(path) is None
    path.write_bytes(b"nothing of the kind" * 100)
    assert image.read(path) is None
    for content in (marshal.dumps((1, 2)), marshal.dumps(None), b"no such type", b""):  # whole, but of another version
        path.write_bytes(hashlib.sha256(content).digest() + content)
        assert image.read(path) is None


def test_code_that_needs_what_is_not_here(tmp_path, monkeypatch):
    """An image whose function no library has is compiled again."""
    made = image_of(decide)
    foreign = made._replace(imports=[(0, "no_such_function")])
    with pytest.raises(OSError, match="no C library has a function no_such_function"):
        image.Code(foreign)
    monkeypatch.setattr(cache, "FILLED", None)
    monkeypatch.setattr(cache, "CACHE_DIR", tmp_path)
    image.write(tmp_path / f"{decide.name}.code", foreign)
    again = jit.Kernel(decide.py_func, decide.signature)
    told: list[str] = []
    prepare([again], told.append)
    assert told == [decide.name]
    assert again(0, np.zeros(1, np.int64), np.zeros(1, np.int64), 1, 4, 60) == 0
    assert image.read(tmp_path / f"{decide.name}.code") == made


def test_what_changes_the_digest(monkeypatch):
    """Numba's settings, the processor and the versions: with another of them, what is kept is not looked at."""
    before = cache.digest_of(cache.TEXT)
    for name, value in (("NUMBA_OPT", "1"), ("NUMBA_BOUNDSCHECK", "0"), ("NUMBA_CPU_NAME", "generic")):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert cache.digest_of(cache.TEXT) != before
    for name, other in (("_processor", lambda: b"another"), ("_versions", lambda: iter([b"another"]))):
        with monkeypatch.context() as patched:
            patched.setattr(cache, name, other)
            assert cache.digest_of(cache.TEXT) != before
    assert cache.digest_of(cache.TEXT) == before


def test_a_warm_capture_needs_no_compiler(tmp_path):
    """Neither Numba nor LLVM is imported once kernels and filter are compiled."""
    path = Path(tmp_path, "a.pcap")
    path.write_bytes(pcap_header(65535))
    code = (
        "import sys; from wirecap.cli.main import run; "
        f"status = run(['capture', '-r', {str(path)!r}, '-f', 'udp port 53']); "
        "print(status, *({'numba', 'llvmlite', 'pyroute2', 'asyncio'} & set(sys.modules)))"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, env=os.environ, check=True
        )
    assert done.stdout == "0\n"
