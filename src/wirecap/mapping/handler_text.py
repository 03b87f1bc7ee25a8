"""A handler on its way to other processes: as source text, which each of them compiles once."""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError
from wirecap.handlers.user import failed_import, load_handler, make_importable

_lock = threading.Lock()
loading: set[str] = set()
"""Modules whose text is being run: a map that one of them starts would start itself again."""


@dataclass(frozen=True)
class HandlerText:
    """name: of a handler in the table, or of a function in ``text``; file: where the text is from, for messages."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = ""
    file: str = ""

    @classmethod
    def of(cls, spec: HandlerSpec) -> HandlerText:
        """Raises UsageError for a handler whose text is nowhere to be found."""
        if spec.given is None and ":" not in spec.name:
            return cls(spec.name, spec.options)
        given = spec.given if spec.given is not None else load_handler(spec.name)
        function = getattr(given, "function", getattr(given, "py_func", given))
        name = getattr(function, "__name__", str(function))
        file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
        if file is None or not Path(file).is_file() or getattr(function, "__qualname__", "") != name:
            raise UsageError(
                f"handler {name}: its source is no function of a file, and goes to the workers as text",
                "write it at the top level of a file",
            )
        return cls(name, spec.options, Path(file).read_text(), str(Path(file).absolute()))

    def spec(self) -> HandlerSpec:
        """The handler, in this process.  Raises UsageError with the user's file and line."""
        if not self.text:
            return HandlerSpec(self.name, self.options)
        with _lock:
            module = _module(self.text, self.file)
        return HandlerSpec(self.name, self.options, given=getattr(module, self.name))


def _module(text: str, file: str) -> ModuleType:
    """The module of a text, made once in a process; it is called the same in all of them, so that what it defines can
    be pickled."""
    name = f"wirecap_handler_{hashlib.sha256(f'{file}:{text}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = file
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    if Path(file).parent.is_dir():
        make_importable(str(Path(file).parent))
    sys.modules[name] = module
    loading.add(name)
    try:
        exec(compile(text, file, "exec"), module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        raise failed_import(file, error) from None
    finally:
        loading.discard(name)
    return module
