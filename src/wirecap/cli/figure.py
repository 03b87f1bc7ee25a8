"""``wirecap figure``: the paper's figures 8 to 14, simulated and, with --live, also measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wirecap import units
from wirecap.cli.options import OUTPUT, Command, argument, compiling, section, write_json
from wirecap.errors import UsageError, WirecapError

HELP = """Reproduce the paper's figures 8 to 14: data, plot, configuration, and how well they agree.

FIGURE is a number from 8 to 14, or 'all', which also writes an HTML report. Everything goes into the folder
given by -o. With --live the same experiment also runs on a testbed, with this project's engines: 'xdp' for
WireCAP, 'direct' for DNA and NETMAP, 'packet' for PF_RING (docs/simulator.md).

\b
  wirecap figure 11 -o figures
  wirecap figure 10 --live
  wirecap figure all -o report
"""

output = section("Output")
live = section("Measurement")


@click.command(cls=Command, help=HELP)
@argument("number", metavar="FIGURE")
@output("-o", "--output", "folder", default="figures", show_default=True, metavar="DIR", help="Where to write.")
@output("--json", "json_file", type=OUTPUT, help="Write data, configuration and text as JSON; - is stdout.")
@output("--no-plot", is_flag=True, help="Data only, without Matplotlib.")
@live("--live", "measured", is_flag=True, help="Also run it on a testbed; needs root. A point takes 2 s in figures 8 to"
      " 10 and 14, and 35 s in 11 to 13; all figures take 40 minutes.")  # fmt: skip
@live("--engine", "engines", multiple=True, type=click.Choice(("xdp", "packet", "direct")),
      help="With --live: only these engines; repeatable.")  # fmt: skip
@live("--points", metavar="X,X,...", help="With --live: only these values on the x axis, such as 4,6.")
def command(
    number: str, folder: str, json_file: str | None, no_plot: bool, measured: bool, engines: tuple[str, ...],
    points: str | None,
) -> None:  # fmt: skip
    from wirecap.sim.figures import TABLE, plot, report

    if (engines or points) and not measured:
        raise UsageError("--engine and --points apply only to measurements", "add --live")
    numbers = list(TABLE) if number == "all" else [_number(number, list(TABLE))]
    places = _points(points)
    if not no_plot and not plot.available():
        raise WirecapError("plots need Matplotlib", "pip install 'wirecap[plot]', or skip them with --no-plot")
    if measured:
        _check_choice(numbers, places, set(engines))
    report.prepare(Path(folder))
    quiet = json_file == "-"
    made = []
    for each in numbers:
        figure = TABLE[each](compiling)
        if measured:
            _measure(figure, Path(folder), engines, places)
        made.append(figure)
        paths = report.write_figure(figure, Path(folder), plots=not no_plot)
        if not quiet:
            _show(figure, paths)
    if number == "all":
        page = report.write_page(made, Path(folder), plots=not no_plot)
        if not quiet:
            click.echo(f"{page}: all figures on one page")
    if json_file:
        found = [report.as_dict(figure) for figure in made]
        write_json(json_file, {"figures": found} if number == "all" else found[0])


def _check_choice(numbers: list[int], places: tuple[float, ...], engines: set[str]) -> None:
    """Raise UsageError if no figure has one of the places on its axis, or none is measured with the engines."""
    from wirecap.sim.figures.live import experiments, live_engines

    there = set.union(*(live_engines(number) for number in numbers))
    if engines and not engines & there:
        raise UsageError(
            f"--engine {min(engines)}: nothing is measured with this engine", f"use one of {', '.join(sorted(there))}"
        )
    grid = {float(x) for number in numbers for one in experiments(number) for x in one.grid}
    for place in places:
        if place not in grid:
            known = ", ".join(f"{x:.0f}" for x in sorted(grid))
            raise UsageError(f"--points: nothing is measured at {place:.0f}", f"choose from {known}")


def _measure(figure: Any, folder: Path, engines: tuple[str, ...], places: tuple[float, ...]) -> None:
    """Measure a figure; on an interrupt, write what has been measured so far, without plots."""
    from wirecap.sim.figures import report
    from wirecap.sim.figures.live import measure

    try:
        measure(figure, lambda line: click.echo(f"  {line}", err=True), engines, places)
    except KeyboardInterrupt:
        figure.notes.append("the measurement was interrupted")
        paths = report.write_figure(figure, folder, plots=False)
        click.echo(f"  written so far: {', '.join(str(path) for path in paths)}", err=True)
        raise


def _number(text: str, numbers: list[int]) -> int:
    if not text.isdecimal() or int(text) not in numbers:
        raise UsageError(f"unknown figure: {text!r}", f"choose {numbers[0]} to {numbers[-1]}, or all")
    return int(text)


def _points(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(units.parse_count(part)) for part in text.split(",")) if text else ()
    except UsageError:
        raise UsageError(f"--points: not a list of numbers: {text}", "write it as 4,6 or 10k,1M") from None


def _show(figure: Any, paths: list[Path]) -> None:
    from wirecap.sim.figures.story import paragraph

    click.echo(f"Figure {figure.number}: {figure.title}")
    if not figure.bars:
        places = ", ".join(figure.x_names.get(point.x, f"{point.x:,.0f}") for point in figure.series[0].points)
        click.echo(f"  {figure.x_label + ':':<46} {places}")
    for series in figure.series:
        kind = "" if series.kind == "simulated" else f", {series.kind}"
        shown = ", ".join(f"{value:.1f}" for value in series.percents)
        click.echo(f"  {series.label + kind:<46} {shown} %")
    click.echo(click.wrap_text(paragraph(figure), width=110, initial_indent="  ", subsequent_indent="  "))
    click.echo(f"  written: {', '.join(str(path) for path in paths)}")
