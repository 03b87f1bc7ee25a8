"""``wirecap warmup``: compile every kernel now, so that no capture has to."""

from __future__ import annotations

import pkgutil
import sys
import time
from importlib import import_module
from typing import Any

import click

from wirecap.cli.parameters import Command


@click.command(cls=Command)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def command(quiet: bool) -> None:
    """Compile ahead, so that the first capture starts at once.

    The compiled kernels are kept in WIRECAP_CACHE_DIR, else in XDG_CACHE_HOME/wirecap, else in
    ~/.cache/wirecap, for as long as neither WireCAP nor Numba changes.
    """
    jit = import_kernels()
    start = time.perf_counter()
    if jit.PURE:
        click.echo("NUMBA_DISABLE_JIT is set: kernels run as plain Python, there is nothing to compile", err=True)
        return
    display = None if quiet else _Display()
    compiled: list[str] = []

    def tell(name: str) -> None:
        compiled.append(name)
        if display:
            display.show(f"compiling {name} ({len(compiled)})")

    total = jit.prepare(tell=tell)
    if display:
        display.close()
        cached = total - len(compiled)
        seconds = time.perf_counter() - start
        click.echo(
            f"{total} kernels ready in {seconds:.1f} s: {len(compiled)} compiled, {cached} found in {jit.CACHE_DIR}"
        )


def import_kernels() -> Any:
    """Import every module of wirecap.kernels, so that its entry points are known; returns the jit module."""
    import wirecap.kernels as package

    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"{package.__name__}.{module.name}")
    return import_module("wirecap.kernels.jit")


class _Display:
    """One line that is written over on a terminal; a line for each kernel elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    def show(self, text: str) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K" + text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
