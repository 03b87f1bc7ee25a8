"""Commands in hints and examples as they can be typed here: ``.venv/bin/wirecap`` where the shell finds no other."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

_COMMAND = re.compile(
    r"(?<![\w./-])(?<!Usage: )wirecap(?= (?:capture|forward|generate|replay|convert|find|index|simulate|figure|plan"
    r"|demo|testbed|doctor|warmup|wireshark|completion|man|examples|libpcap|service|serve|top|metrics|trigger|map|collect|COMMAND|--help|--version)\b)"
)


_INSTALL = re.compile(r"\bpip install (?:'wirecap\[(\w+)\]'|(\w+))")


def as_typed(text: str) -> str:
    """The text with each ``wirecap capture ...`` and ``pip install ...`` as this user can type it."""
    if not _is_ours():
        return text
    return _INSTALL.sub(_install_here, _COMMAND.sub(lambda _: command_here(), text))


def _install_here(found: re.Match[str]) -> str:
    """pip for the Python that runs, and the checkout's own extras where WireCAP runs from one."""
    extra, package = found.groups()
    checkout = Path(__file__).parents[3]
    if extra:
        package = f"{_short(checkout)}[{extra}]" if (checkout / "pyproject.toml").exists() else f"wirecap[{extra}]"
        package = f"'{package}'"
    return f"{shlex.quote(_short(Path(sys.executable)))} -m pip install {package}"


def _short(path: Path) -> str:
    """A path as seen from here, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _is_ours() -> bool:
    """Whether the command runs, and not another program that calls it."""
    own = Path(sys.argv[0])
    return own.name == "wirecap" or (own.name == "__main__.py" and own.parent.name == "wirecap")


def command_here(on_path: bool = True) -> str:
    """This wirecap as a shell finds it: its name, the path of its script, or its module.

    on_path: whether the PATH counts.
    """
    script = Path(sys.executable).with_name("wirecap")
    if not script.exists():
        return f"{shlex.quote(sys.executable)} -m wirecap"
    found = shutil.which("wirecap")
    if on_path and found and script.samefile(found):
        return "wirecap"
    here = Path.cwd()
    path = str(script.relative_to(here) if script.is_relative_to(here) else script)
    return shlex.quote(path if "/" in path else f"./{path}")  # without a slash a shell looks for it in the PATH
