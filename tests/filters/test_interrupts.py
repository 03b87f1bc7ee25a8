"""Ctrl-C while a filter is compiled."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from test_libpcap import terms

from rig import cpu_seconds, until

CHILD = """
import sys
from wirecap.filters import libpcap, native_code
module, name = {step!r}.split(".")
owner = {{"libpcap": libpcap, "native_code": native_code}}[module]
compile = getattr(owner, name)
def announced(*arguments):
    print("compiling", flush=True)
    return compile(*arguments)
setattr(owner, name, announced)
sys.argv[0] = "wirecap"
from wirecap.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("step", "options", "count"),
    [
        ("libpcap._compile", [], 3000),
        ("libpcap._compile", ["-O"], 3000),
        ("native_code.compile_program", ["-O"], 40),
        ("native_code.compile_program", ["-O"], 150),
    ],
)
def test_an_interrupt_ends_a_long_compilation(mixed_trace, tmp_path, step, options, count):
    """Whether libpcap works on an expression that takes it minutes, or LLVM on a long program: Ctrl-C ends it soon."""
    (tmp_path / "filter").write_text(f"({terms(count)}) or vlan")  # which cannot be compiled in parts
    arguments = ["capture", "--count", *options, "-r", str(mixed_trace), "-F", str(tmp_path / "filter")]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(step=step), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert child.stdout.readline() == "compiling\n"
        begun = cpu_seconds(child.pid)
        until(lambda: cpu_seconds(child.pid) > begun + 0.2)  # it is in the middle of it
        asked = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
        assert time.monotonic() - asked < 2
        assert (errors, child.returncode) == ("wirecap: interrupted\n", 1)
    finally:
        child.kill()


@pytest.mark.parametrize("optimize", [True, False])
def test_a_program_hears_signals_of_its_own(optimize):
    """A handler that raises is heard while libpcap works, and the process ends as ever."""
    script = f"""
import signal
from wirecap.filters.expression import compile_filter
class Heard(Exception): ...
def hear(*_): raise Heard
signal.signal(signal.SIGALRM, hear)
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    compile_filter('({terms(3000)}) or vlan', optimize={optimize})
except Heard:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("heard\n", 0), done.stderr
