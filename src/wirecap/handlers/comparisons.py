"""Comparisons in a compiled handler's source that can never be true: ``packet.length == "60"``."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from wirecap.kernels.packet.compare import check
from wirecap.kernels.packet.fields import LAYER_ATTRIBUTES, PACKET_ATTRIBUTES

_FIELDS = {*PACKET_ATTRIBUTES, *(f"{layer}.{name}" for layer, names in LAYER_ATTRIBUTES.items() for name in names)}


def check_comparisons(function: Callable[..., Any]) -> None:
    """Look at each field of the function's first parameter that is compared with a text that stands beside it.

    What goes through variables is left to the compiler, which knows numbers but not whose they are.  Raises
    UnlikeError; says nothing about a function whose source cannot be read.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError):
        return
    packet = next(iter(inspect.signature(function).parameters))
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for left, right in pairwise([node.left, *node.comparators]):
                for one, other in ((left, right), (right, left)):
                    field = ast.unparse(one).removeprefix(f"{packet}.") if isinstance(one, ast.Attribute) else ""
                    if field in _FIELDS:
                        for text in _texts(other):
                            check(field, text)


def _texts(node: ast.expr) -> Iterator[str]:
    for part in node.elts if isinstance(node, (ast.Tuple, ast.List, ast.Set)) else [node]:
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
