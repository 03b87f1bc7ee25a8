"""``--html``: a run as one page that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from wirecap.engine.engine import Engine
from wirecap.errors import WirecapError
from wirecap.files.shared import write_text
from wirecap.forensics.explain import advice_text, sentences
from wirecap.forensics.recorder import NOT_LOST, Recorder
from wirecap.units import format_count, format_size
from wirecap.version import __version__

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b;
  background: #f6f7f9; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
header p { margin: .2rem 0 1.2rem; color: #555; }
section { background: #fff; border: 1px solid #e2e5ea; border-radius: .6rem; padding: 1rem 1.2rem; margin: 0 0 1rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 0 0 1rem; }
.tile { background: #fff; border: 1px solid #e2e5ea; border-radius: .6rem; padding: .7rem 1rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; } .tile span { color: #555; font-size: .85rem; }
.bad b { color: #b00020; } .good b { color: #08783e; }
figure { margin: 0; } svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e2e5ea; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.own { font-weight: bold; }
ul { margin: 0; padding-left: 1.2rem; } li { margin: 0 0 .7rem; } li p { margin: .1rem 0; }
code { background: #eef1f5; padding: .1rem .3rem; border-radius: .3rem; }
footer { color: #777; font-size: .85rem; }
"""


def check() -> None:
    """Raise WirecapError, before anything is captured, if no page could be made at the end."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise WirecapError("--html needs Matplotlib", "pip install 'wirecap[plot]', or leave --html out") from None


def write(path: str, recorder: Recorder, summary: Mapping[str, Any]) -> None:
    """Write the page of a run that has ended; OSError if that is impossible."""
    try:
        write_text(path, page(recorder, summary))
    except OSError as error:  # where the disk is full it does not name the file
        error.filename = path
        raise


def page(recorder: Recorder, summary: Mapping[str, Any]) -> str:
    """The text of the page."""
    from wirecap.forensics import plots

    engine = recorder.engine
    names = [f"{row['interface']} {row['queue']}" for row in summary["per_queue"]]
    advanced = summary["mode"] == "advanced"
    drawn = plots.draw(recorder.history, names, _threads(engine, names), engine.R, engine.T if advanced else None)
    where = ", ".join(dict.fromkeys(row["interface"] for row in summary["per_queue"]))
    title = f"{'Reading' if summary['engine'] == 'file' else 'Capture on'} {where}"
    parts = [
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(_about(recorder, summary))}</p></header>",
        _tiles(summary),
        _losses(summary),
        f'<section id="time"><h2>What happened when</h2><figure>{drawn}</figure></section>',
        _given(recorder, names) if advanced else "",
        _queues(summary),
        _footer(recorder),
    ]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>{"".join(parts)}'
        "</body></html>\n"
    )


def _threads(engine: Engine, names: list[str]) -> list[str]:
    """What those who take chunks are called: after the queues that they serve."""
    served = [[name for name, one in zip(names, engine.layout.consumer_of, strict=True) if one == number]
              for number in range(engine.layout.handlers)]  # fmt: skip
    found = [mine[0] if len(mine) == 1 else f"{len(mine)} queues together" for mine in served]
    return [*found, *(f"writer {number}" for number in range(engine.layout.writers))]


def _footer(recorder: Recorder) -> str:
    width = f"A point of the curves stands for {recorder.history.width_ms} ms."
    return f"<footer>Made by wirecap {html.escape(__version__)}. {width}</footer>"


def _about(recorder: Recorder, summary: Mapping[str, Any]) -> str:
    began = datetime.fromtimestamp(recorder.began_ns / 1e9)
    mode = f"advanced mode, T {summary['T']} %" if summary["mode"] == "advanced" else "basic mode"
    queues = f"{summary['queues']} queue{'' if summary['queues'] == 1 else 's'}"
    pools = f"M {summary['M']}, R {summary['R']} ({format_size(summary['pool_bytes'])})"
    engine = f"engine {summary['engine']}, {queues}, {mode}, {pools}"
    return f"{began:%Y-%m-%d %H:%M:%S}, {summary['duration_s']:.1f} s: {engine}"


def _tiles(summary: Mapping[str, Any]) -> str:
    packets = summary["packets"]
    dropped = _lost(packets)
    shown = [("received", packets["received"], ""), ("captured", packets["delivered"], "")]
    shown += [(name, packets[name], "") for name in ("written", "forwarded", "offloaded") if packets[name]]
    shown.append(("lost", dropped, "bad" if dropped else "good"))
    cells = "".join(
        f'<div class="tile {kind}"><b title="{number:,}">{format_count(number)}</b><span>packets {name}</span></div>'
        for name, number, kind in shown
    )
    return f'<div class="tiles">{cells}</div>'


def _lost(packets: Mapping[str, Any]) -> int:
    """Packets that were dropped, but those that somebody wanted dropped."""
    return sum(count for name, count in packets["drops"].items() if name not in NOT_LOST)


def _losses(summary: Mapping[str, Any]) -> str:
    losses = summary.get("losses", ())
    if not losses:
        said = "No packet was lost." if not _lost(summary["packets"]) else "Packets were lost, but nobody saw when."
        return f'<section id="losses"><h2>Losses</h2><p>{said}</p></section>'
    items = []
    for row in losses:
        lines = "".join(f"<p>{html.escape(line.strip())}</p>" for line in sentences(row)[:1])
        flows = "".join(map(_flow, row["flows"]))
        table = f'<div class="wide"><table><tr><th>flow</th><th>lost</th><th></th></tr>{flows}</table></div>'
        notes = "".join(f"<p>{html.escape(row[name])}.</p>" for name in ("flows_note", "advice_note") if row[name])
        advice = "".join(
            f"<p>Would have held them: <code>{html.escape(advice_text(one))}</code></p>" for one in row["advice"]
        )
        items.append(f"<li>{lines}{advice}{table if flows else ''}{notes}</li>")
    left = summary.get("losses_left_out", 0)
    more = f"<p>{left} smaller {'losses are' if left > 1 else 'loss is'} not listed.</p>" if left else ""
    title = "Losses, and what would have held them"
    return f'<section id="losses"><h2>{title}</h2><ul>{"".join(items)}</ul>{more}</section>'


def _flow(one: Mapping[str, Any]) -> str:
    share = f"{100 * one['share']:.1f} %"
    return f"<tr><td>{html.escape(one['flow'])}</td><td>{one['packets']:,}</td><td>{share}</td></tr>"


def _given(recorder: Recorder, names: list[str]) -> str:
    """A table: packets of each queue, by the thread that got them."""
    given = recorder.given
    most = max(1, int(given.max(initial=0)))
    head = "".join(f"<th>{html.escape(names[c] if c < len(names) else str(c))}</th>" for c in range(given.shape[1]))
    rows = ""
    for home, row in enumerate(given.tolist()):
        cells = "".join(
            f'<td{" class=own" if to == home else ""} style="background: rgba(0, 114, 178, {0.55 * count / most:.3f})">'
            f"{count:,}</td>"
            for to, count in enumerate(row)
        )
        rows += f"<tr><td>{html.escape(names[home])}</td>{cells}</tr>"
    return (
        '<section id="given"><h2>From which queue to whose handler, in packets</h2><div class="wide"><table>'
        f"<tr><th>arrived on</th>{head}</tr>{rows}</table></div></section>"
    )


def _queues(summary: Mapping[str, Any]) -> str:
    columns = ("received", "delivered", "filtered_out", "offloaded", "dropped")
    head = "".join(f"<th>{name.replace('_', ' ')}</th>" for name in columns)
    rows = "".join(
        f"<tr><td>{html.escape(row['interface'])} queue {row['queue']}</td>"
        + "".join(f"<td>{row[name]:,}</td>" for name in columns)
        + "</tr>"
        for row in summary["per_queue"]
    )
    return (
        f'<section id="queues"><h2>Queues</h2><div class="wide"><table><tr><th></th>{head}</tr>{rows}</table></div>'
        "</section>"
    )
