"""Promises of SECURITY.md that hold for the whole source: no text is run as code, what listens listens to this host."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from wirecap.config.endpoint import Endpoint
from wirecap.errors import UsageError
from wirecap.handlers import user

PACKAGE = Path(__file__).parent.parent / "src" / "wirecap"
RUNS_TEXT = {"eval", "exec", "compile", "__import__", "execfile"}
READS_OBJECTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
ALLOWED = {
    "kernels/base/call.py: exec",  # a template of its own, filled with the names of kernels' parameters
    "kernels/base/call.py: pickle.loads",  # what Numba puts into machine code of our own: an exception's class
    "kernels/base/image.py: marshal.loads",  # a header of names and numbers, in the file whose machine code is then run
    "handlers/parts.py: pickle.loads",  # a part's state, from map's own worker or the user's cluster
    "mapping/handler_text.py: compile",  # the file of the handler that the user named, where it is not: on a worker
    "mapping/handler_text.py: exec",
    "kernels/handlers/user.py: pickle.loads",  # compiled code, from a file that only its user can have written
}


def dangers(source: str) -> set[str]:
    """Calls that run a text, or make objects of bytes."""
    found, nodes = set(), list(ast.walk(ast.parse(source)))
    own = {alias.asname or alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    for node in nodes:
        if not isinstance(node, ast.Call) or ast.unparse(node.func) in own:  # filters have a ``compile`` of their own
            continue
        name = ast.unparse(node.func)
        first, _, last = name.rpartition(".")
        builtin = name.removeprefix("builtins.")
        if builtin in RUNS_TEXT or (first in READS_OBJECTS and last in ("load", "loads", "open", "Unpickler")):
            found.add(builtin)
        if any(word.arg == "allow_pickle" and ast.unparse(word.value) != "False" for word in node.keywords):
            found.add("allow_pickle")
        if any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords):
            found.add("shell")
    return found


def test_no_text_is_run_as_code() -> None:
    """eval, exec, pickle and shells are used where ALLOWED says why, and nowhere else."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if place.startswith(("examples/", "lab/")):
            continue
        found |= {f"{place}: {name}" for name in dangers(path.read_text())}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "text", ["eval(x)", "builtins.exec(x)", "pickle.loads(x)", "np.load(f, allow_pickle=True)", "run(c, shell=True)"]
)
def test_the_look_finds(text: str) -> None:
    """It is no look that cannot fail."""
    assert dangers(text)


def test_metrics_are_for_this_host() -> None:
    """A port alone is the loopback interface's; all interfaces have to be named."""
    assert Endpoint.parse("9464").host == "127.0.0.1"
    assert Endpoint.parse("0.0.0.0:9464").host == "0.0.0.0"


def test_a_folder_of_everybodys_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the working directory is found where nobody else can have put it; a file by its path in any case."""
    (tmp_path / "planted_handler.py").write_text("def seen(packet, state):\n    pass\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o1777)
    with pytest.raises(UsageError, match="no module named 'planted_handler'"):
        user.load_handler("planted_handler:seen")
    assert user.load_handler("./planted_handler.py:seen")
    assert str(tmp_path) not in sys.path
    sys.modules.pop("planted_handler")
    tmp_path.chmod(0o755)
    assert user.load_handler("planted_handler:seen")
    sys.modules.pop("planted_handler")
