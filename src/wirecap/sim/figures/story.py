"""What is written beside a figure: expected, came out, how far they agree."""

from __future__ import annotations

from wirecap.sim.figures import differences
from wirecap.sim.figures.base import MEASURED, Figure

UNKNOWN = (
    "The paper's machine, its plotted values and its trace are not known: where things agree, it is in shape, order"
    " and ceiling."
)


def paragraph(figure: Figure) -> str:
    """One paragraph, for people."""
    held = [claim for claim in figure.claims if claim.holds]
    failed = [claim for claim in figure.claims if not claim.holds]
    expected = "; ".join(f"{claim.text} [{claim.source}]" for claim in figure.claims)
    found = "; ".join(f"{claim.found}{'' if claim.holds else ' (NOT as expected)'}" for claim in figure.claims)
    verdict = f"{len(held)} of {len(figure.claims)} hold"
    if failed:
        verdict += ", not: " + "; ".join(claim.text for claim in failed)
    text = f"Expected: {expected}. Simulated: {found}. Agreement: {verdict}."
    measured = differences.verdict([series for series in figure.series if series.kind == MEASURED])
    if measured:
        text += f" Measured against simulated: {'; '.join([measured, *figure.differences])}."
    text += f" {UNKNOWN}"
    if figure.notes:
        text += " Note: " + "; ".join(figure.notes) + "."
    return text
