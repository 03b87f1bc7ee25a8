"""What is written beside a figure: expected, came out, how far they agree."""

from __future__ import annotations

from wirecap.sim.figures import differences
from wirecap.sim.figures.base import MEASURED, Claim, Figure

TAGS = {"text": "read in the paper", "recalled": "recalled from it, unverified", "derived": "derived"}
"""Where a statement is known from (docs/simulator.md), in words."""
UNKNOWN = (
    "The paper's machine, its plotted values and its trace are not known, so that this is agreement of shape, order and"
    " ceiling."
)


def paragraph(figure: Figure) -> str:
    """One paragraph, for people: each statement with what came out, then how far it all agrees."""
    pairs = " ".join(_pair(claim) for claim in figure.claims)
    text = f"{pairs} Agreement: {_held(figure)}. {UNKNOWN}"
    measured = differences.verdict([series for series in figure.series if series.kind == MEASURED])
    if measured:
        text += f" Measured against simulated: {'; '.join([measured, *figure.differences])}."
    if figure.notes:
        text += " Note: " + "; ".join(figure.notes) + "."
    return text


def _pair(claim: Claim) -> str:
    came_out = "Came out" if claim.holds else "NOT as expected, it came out"
    return f"Expected: {claim.text} ({TAGS[claim.source]}). {came_out}: {claim.found}."


def _held(figure: Figure) -> str:
    failed = [claim.text for claim in figure.claims if not claim.holds]
    total = len(figure.claims)
    if not failed:
        return {1: "the one statement holds", 2: "both statements hold"}.get(total, f"all {total} statements hold")
    return f"{total - len(failed)} of {total} statements hold, not: {'; '.join(failed)}"
