"""``wirecap warmup``: compiles every kernel now, so that no capture has to."""

from __future__ import annotations

import pkgutil
import sys
import time
from importlib import import_module
from typing import Any

import click

from wirecap.cli.options import Command, json_option, section, write_json


@click.command(cls=Command)
@section("Options")("-q", "--quiet", is_flag=True, help="Print nothing.")
@json_option("Write what was compiled", "Options")
def command(quiet: bool, json_file: str | None) -> None:
    """Compile the kernels now, so that the first capture starts at once.

    Compiled kernels are kept in WIRECAP_CACHE_DIR, else in XDG_CACHE_HOME/wirecap, else in
    ~/.cache/wirecap, until WireCAP or Numba changes.  Where that cannot be written to, they are kept in a
    folder of the user's own under TMPDIR or /tmp.  A wheel may bring object code, which is made for many
    processors: what is compiled now is for this one, and is a little faster.
    """
    jit = import_kernels()
    cache = import_module("wirecap.kernels.base.cache")
    start = time.perf_counter()
    if jit.PURE:
        click.echo("NUMBA_DISABLE_JIT is set: kernels run as plain Python, so there is nothing to compile", err=True)
        if json_file:
            write_json(json_file, {"kernels": 0, "compiled": [], "found": 0, "folder": None, "duration_s": 0.0})
        return
    display = None if quiet else _Display()
    compiled: list[str] = []

    def tell(name: str) -> None:
        compiled.append(name)
        if display:
            display.show(f"compiling {name} ({len(compiled)})")

    total = jit.prepare(tell=tell, as_shipped=False)
    cached, seconds = total - len(compiled), time.perf_counter() - start
    folder = cache.FILLED or cache.CACHE_DIR
    if display:
        display.close()
    if json_file:
        where = None if folder is None else str(folder)
        write_json(json_file, {"kernels": total, "compiled": compiled, "found": cached, "folder": where,
                               "duration_s": seconds})  # fmt: skip
    if display and json_file != "-":
        found = f", {cached} found in {folder}" if folder else ""
        click.echo(f"{total} kernels ready in {seconds:.1f} s: {len(compiled)} compiled{found}")


def import_kernels() -> Any:
    """Import every module of wirecap.kernels, which registers its entry points; returns the jit module."""
    import wirecap.kernels as package

    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        import_module(module.name)
    return import_module("wirecap.kernels.base.jit")


class _Display:
    """On a terminal one line that is overwritten, otherwise a line per kernel."""

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
