"""Kernels as generators: a function's source, in which each access to shared memory is a ``yield``.

``Kernels().plain(push)`` is a generator function that does what the kernel ``push`` does, and asks whoever drives it
for each access: ("load", word), ("store", word, value) and so on.  The functions that it calls are rewritten with it.
Mutants of a function differ from it in one access.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

ATOMICS, LIBC = "wirecap.kernels.base.atomics", "wirecap.kernels.base.libc"


class Words:
    """An array that threads share: words ``first`` to ``first + size`` of a scenario's memory."""

    def __init__(self, first: int, *shape: int) -> None:
        self.first, self.shape = first, shape
        self.size = shape[0] * (shape[1] if len(shape) > 1 else 1)

    def word(self, index: Any) -> int:
        """The number of one word; IndexError where a kernel's bounds check would find one."""
        row, column = index if isinstance(index, tuple) else (None, index)
        if (row is None) != (len(self.shape) == 1) or (row is not None and not 0 <= row < self.shape[0]):
            raise IndexError(f"{index} of an array of shape {self.shape}")
        if not 0 <= column < self.shape[-1]:
            raise IndexError(f"{index} of an array of shape {self.shape}")
        return self.first + (row * self.shape[1] if row is not None else 0) + column

    def __getitem__(self, part: Any) -> Words:
        """A row, or what begins at an index."""
        if isinstance(part, slice):
            start = part.start or 0
            return Words(self.first + start, (part.stop or self.size) - start)
        return Words(self.word((part, 0)), self.shape[1])


def get(array: Any, index: Any) -> Iterator[Any]:
    if isinstance(array, Words) and (isinstance(index, tuple) or len(array.shape) == 1):
        return (yield ("read", array.word(index)))
    return array[index]


def put(array: Any, index: Any, value: Any) -> Iterator[Any]:
    if isinstance(array, Words):
        yield ("write", array.word(index), value)
    else:
        array[index] = value


def load(array: Any, index: Any) -> Iterator[Any]:
    return (yield ("load", array.word(index)))


def store(array: Any, index: Any, value: Any) -> Iterator[Any]:
    yield ("store", array.word(index), value)


def fetch_add(array: Any, index: Any, value: Any) -> Iterator[Any]:
    return (yield ("add", array.word(index), value))


def compare_swap(array: Any, index: Any, expected: Any, value: Any) -> Iterator[Any]:
    return (yield ("swap", array.word(index), expected, value))


def fence() -> Iterator[Any]:
    yield ("fence",)


def futex_wait(array: Any, index: Any, expected: Any, timeout_ns: Any, scratch: Any) -> Iterator[Any]:
    yield ("wait", array.word(index), expected)


def futex_wake(array: Any, index: Any) -> Iterator[Any]:
    yield ("wake", array.word(index))


def add_apart(array: Any, index: Any, value: Any) -> Iterator[Any]:
    """A mutant's fetch_add: the same orderings, but in two steps."""
    before = yield ("load", array.word(index))
    yield ("store", array.word(index), before + value)
    return before


def swap_apart(array: Any, index: Any, expected: Any, value: Any) -> Iterator[Any]:
    """A mutant's compare_swap."""
    if (yield ("load", array.word(index))) != expected:
        return False
    yield ("store", array.word(index), value)
    return True


def prefetch(array: Any, index: Any) -> Iterator[Any]:
    yield from ()


ACCESSES: dict[str, Callable[..., Any]] = {
    made.__name__: made
    for made in (load, store, fetch_add, compare_swap, fence, prefetch, futex_wait, futex_wake, add_apart, swap_apart)
}
APART = {"fetch_add": "add_apart", "compare_swap": "swap_apart"}


def source_of(function: Any) -> ast.FunctionDef:
    """A kernel's source, without decorators and docstring."""
    body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(body, ast.FunctionDef)
    body.decorator_list = []
    if ast.get_docstring(body):
        body.body = body.body[1:] or [ast.Pass()]
    return body


class _Yielding(ast.NodeTransformer):
    """Accesses and calls of kernels become ``yield from``."""

    def __init__(self, kernels: set[str]) -> None:
        self.kernels = kernels

    def call(self, name: str, *arguments: ast.expr) -> ast.YieldFrom:
        return ast.YieldFrom(ast.Call(ast.Name(name, ast.Load()), list(arguments), []))

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in self.kernels:
            return ast.YieldFrom(node)
        return node

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        if isinstance(node.slice, ast.Slice) or not isinstance(node.ctx, ast.Load):
            return node
        return self.call("get", node.value, node.slice)

    def visit_Assign(self, node: ast.Assign) -> Any:
        targets = [one for target in node.targets for one in getattr(target, "elts", [target])]
        if not any(isinstance(target, ast.Subscript) for target in targets):
            return self.generic_visit(node)
        value = self.visit(node.value)
        if len(targets) == 1:
            return self.put(targets[0], value)
        first = [ast.Assign([ast.Name("_values", ast.Store())], value)]
        whole = len(node.targets) > 1  # a = b[0] = value
        for i, target in enumerate(targets):
            one = ast.Name("_values", ast.Load())
            part = one if whole else ast.Subscript(one, ast.Constant(i), ast.Load())
            first.append(self.put(target, part))
        return first

    def put(self, target: ast.expr, value: ast.expr) -> Any:
        if not isinstance(target, ast.Subscript):
            return ast.Assign([target], value)
        return ast.Expr(self.call("put", self.visit(target.value), self.visit(target.slice), value))

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        if not isinstance(node.target, ast.Subscript):
            return self.generic_visit(node)
        before = ast.Subscript(deepcopy(node.target.value), deepcopy(node.target.slice), ast.Load())
        return self.visit(ast.Assign([node.target], ast.BinOp(before, node.op, node.value)))


@dataclass(frozen=True)
class Mutant:
    """A function with one access changed."""

    function: str
    change: str
    source: ast.FunctionDef

    def __str__(self) -> str:
        return f"{self.function}: {self.change}"


class Kernels:
    """Kernels as generators.  ``constants``: names with other values than in the source."""

    def __init__(self, constants: dict[str, Any] | None = None, mutant: Mutant | None = None) -> None:
        self.constants, self.mutant = constants or {}, mutant
        self._made: dict[Any, Any] = {}

    def plain(self, kernel: Any) -> Any:
        """The generator function for a kernel or a helper."""
        function = getattr(kernel, "py_func", kernel)
        if function not in self._made:
            self._made[function] = None
            self._made[function] = self._make(function)
        return self._made[function]

    def _make(self, function: Any) -> Any:
        changed = self.mutant is not None and self.mutant.function == function.__name__
        source = deepcopy(self.mutant.source) if changed and self.mutant else source_of(function)
        names = {node.id for node in ast.walk(source) if isinstance(node, ast.Name)}
        space: dict[str, Any] = {**function.__globals__, "get": get, "put": put, "np": _Numbers, **ACCESSES}
        space |= {"u32": int, "i64": int, **self.constants}
        calls = (names & ACCESSES.keys()) | (names & {name for name, one in self.constants.items() if callable(one)})
        for name in names - calls - self.constants.keys():
            found = space.get(name)
            found = getattr(found, "py_func", found)
            if isinstance(found, types.FunctionType) and found.__module__.startswith("wirecap.kernels"):
                space[name] = self.plain(found)
                calls.add(name)
        made = _Yielding(calls).visit(source)
        made.body.insert(0, ast.parse("if False: yield").body[0])
        module = ast.fix_missing_locations(ast.Module([made], []))
        exec(compile(module, function.__code__.co_filename, "exec"), space)
        return space[function.__name__]


class _Numbers:
    """NumPy's numbers, in plain Python."""

    int64 = uint32 = int


def mutants(kernel: Any) -> Iterator[Mutant]:
    """Every function that differs in one access: plain in place of atomic, in two steps, left out, two statements
    swapped."""
    function = getattr(kernel, "py_func", kernel)
    source = source_of(function)
    for number, node in enumerate(ast.walk(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            change = _CHANGES.get(node.func.id)
            if change:
                yield _changed(function, source, number, change, ast.unparse(node))
        for first, second in _pairs(node):
            if _may_swap(first, second):
                text = f"{ast.unparse(first)} <-> {ast.unparse(second)}".replace("\n", " ")
                yield _changed(function, source, number, f"swapped {node.body.index(first)}", text)


_CHANGES = {"load": "plain load", "store": "plain store", "fence": "left out"} | dict.fromkeys(APART, "in two steps")


def _pairs(node: ast.AST) -> list[tuple[ast.stmt, ast.stmt]]:
    body = getattr(node, "body", None)
    return list(pairwise(body)) if isinstance(body, list) else []


def _may_swap(first: ast.stmt, second: ast.stmt) -> bool:
    """Whether two statements use no local of each other, and both touch memory, one of them a shared word."""
    simple = (ast.Expr, ast.Assign, ast.AugAssign)
    if not (isinstance(first, simple) and isinstance(second, simple)):
        return False
    if not all(any(isinstance(part, (ast.Subscript, ast.Call)) for part in ast.walk(one)) for one in (first, second)):
        return False
    called = {name for one in (first, second) for name in _names(one)}
    if not called & ACCESSES.keys():
        return False
    return not (_names(first, ast.Store) & _names(second) or _names(second, ast.Store) & _names(first))


def _names(node: ast.AST, context: Any = ast.expr_context) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, context)}


def _changed(function: Any, source: ast.FunctionDef, number: int, change: str, text: str) -> Mutant:
    made = deepcopy(source)
    node = list(ast.walk(made))[number]
    if change.startswith("swapped"):
        at = int(change.split()[1])
        node.body[at], node.body[at + 1] = node.body[at + 1], node.body[at]
        return Mutant(function.__name__, f"swapped: {text}", made)
    return Mutant(function.__name__, f"{change}: {text}", _Replace(node, change).visit(made))


class _Replace(ast.NodeTransformer):
    """One access, changed."""

    def __init__(self, node: ast.AST, change: str) -> None:
        self.node, self.change = node, change

    def visit_Expr(self, node: ast.Expr) -> Any:
        if node.value is not self.node or self.change not in ("plain store", "left out"):
            return self.generic_visit(node)
        if self.change == "left out":
            return ast.Pass()
        array, index, value = node.value.args
        return ast.Assign([ast.Subscript(array, index, ast.Store())], value)

    def visit_Call(self, node: ast.Call) -> Any:
        if node is not self.node:
            return self.generic_visit(node)
        if self.change == "plain load":
            return ast.Subscript(node.args[0], node.args[1], ast.Load())
        return ast.Call(ast.Name(APART[node.func.id], ast.Load()), node.args, [])
