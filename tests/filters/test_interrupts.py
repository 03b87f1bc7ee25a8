"""Ctrl-C while a filter is compiled."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

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
    for _ in range(5):
        errors, status, used = interrupted([sys.executable, "-c", CHILD.format(step=step), *arguments])
        if status:
            break  # else this process was held up until all was compiled
    assert (errors, status) == ("wirecap: interrupted\n", 1)
    assert used < 2


def interrupted(command: list[str]) -> tuple[str, int, float]:
    """What a command says and ends with that gets Ctrl-C in the middle of it, and the processor time used after it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        assert child.stdout.readline() == "compiling\n"
        begun = cpu_seconds(child.pid)
        until(lambda: cpu_seconds(child.pid) > begun + 0.2 or os.waitid(os.P_PID, child.pid, ended))
        asked = cpu_seconds(child.pid)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return errors, child.returncode, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - asked


@pytest.mark.parametrize("optimize", [True, False])
def test_a_program_hears_signals_of_its_own(optimize):
    """A handler that raises is heard while libpcap works, and the process ends as ever."""
    script = f"""
import signal
from wirecap.filters.expression import compile_filter
class Heard(Exception): ...
def hear(*_): raise Heard
signal.signal(signal.SIGALRM, hear)
try:
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    compile_filter('({terms(3000)}) or vlan', optimize={optimize})
except Heard:
    print("heard")
"""
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.returncode) == ("heard\n", 0), done.stderr
