"""A handler that does not compile: the user's file and line and one reason, out of what Numba says."""

from __future__ import annotations

import re

from wirecap.errors import UsageError
from wirecap.handlers.user import UserHandler


def place(user: UserHandler) -> str:
    """Where a handler is defined."""
    code = user.function.__code__
    return f"{code.co_filename}, line {code.co_firstlineno}"


def explain(user: UserHandler, error: Exception) -> UsageError:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return UsageError(f"{place(user)}: handler {user.name} does not compile: {text}")
