"""From ``package.module:object`` or ``./file.py:object`` to the handler that is there."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from wirecap.errors import UsageError
from wirecap.handlers.suggest import suggest
from wirecap.handlers.user import UserHandler, as_handler


def load(name: str) -> UserHandler:
    """Import the module and find the object.  Raises UsageError, with the user's file and line where it fails."""
    place, _, target = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") or "/" in place else _from_package(place)
    found = getattr(module, target, None)
    if found is None:
        handlers = [key for key, value in vars(module).items() if isinstance(value, UserHandler)]
        there = f"it has {', '.join(handlers)}" if handlers else "it has no handlers"
        raise UsageError(f"{place} has no {target!r}", suggest(target, vars(module)) or there)
    return as_handler(found)


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", "write --handler ./my.py:function")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.absolute()):
        return known
    name = path.stem if known is None else f"{path.stem}_of_{abs(hash(str(path.absolute())))}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file", "write --handler ./my.py:function")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # what it defines can be pickled then
    _see(str(path.absolute().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        sys.modules.pop(name, None)
        raise _failed(str(path), error) from None
    return module


def _from_package(name: str) -> ModuleType:
    _see(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {error.name!r}", "for a file write ./my.py:function") from None
        raise _failed(name, error) from None
    except BaseException as error:
        raise _failed(name, error) from None


def _see(folder: str) -> None:
    """Modules beside a handler are found, as ``python file.py`` finds them."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _failed(name: str, error: BaseException) -> BaseException:
    if isinstance(error, (KeyboardInterrupt, UsageError)):
        return error
    if isinstance(error, SyntaxError):
        return UsageError(f"{error.filename}, line {error.lineno}: {error.msg}", "it is not Python")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else name
    return UsageError(f"{place}: {type(error).__name__}: {error}", f"{name} could not be imported")
