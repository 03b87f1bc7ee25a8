"""A filter and the link types of an archive: where one refuses it, no packet matches; if all do, it is an error."""

from __future__ import annotations

from collections.abc import Iterable

from wirecap.errors import UsageError
from wirecap.filters.expression import compile_filter, takes
from wirecap.filters.libpcap import link_name
from wirecap.filters.metadata import Link, NothingMatchesError, settled

_OTHERS = (127, 117, 123, 140, 276, 6)
"""Link types, one for each group of primitives that Ethernet refuses: 802.11, pflog, ATM, SS7, and two more."""


def check_filter(expression: str) -> None:
    """Raise UsageError, with what is said for Ethernet, if no link type takes the filter."""
    try:
        compile_filter(expression)
    except NothingMatchesError:
        pass
    except UsageError:
        if not any(takes(expression, linktype) for linktype in _OTHERS):
            raise


def refusals(expression: str, linktypes: Iterable[int]) -> dict[int, UsageError]:
    """What each of these link types that refuses the filter says."""
    found = {}
    for linktype in sorted(set(linktypes)):
        try:
            settled(compile_filter(expression, linktype), Link(linktype))
        except NothingMatchesError:
            pass
        except UsageError as error:
            found[linktype] = error
    return found


def check_fits(expression: str, linktypes: set[int]) -> list[str]:
    """A line about each link type that refuses the filter; raises UsageError if all of them do."""
    refused = refusals(expression, linktypes)
    if refused and len(refused) == len(linktypes):
        raise next(iter(refused.values()))
    return [f"{error.message}: no packet of {link_name(number)} matches" for number, error in refused.items()]
