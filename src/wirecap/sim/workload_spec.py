"""Workloads as the command line has them: ``burst:packets=1M,rate=14.88Mpps``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wirecap import units
from wirecap.errors import UsageError
from wirecap.sim import border_router, workload
from wirecap.sim.workload import Workload

SHARES_MOST = 4096

Options = dict[str, str]


@dataclass(frozen=True)
class Form:
    """A kind of workload: its options, those it needs first."""

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    example: str
    make: Callable[[Options, Sequence[float]], Workload]


def _burst(options: Options, shares: Sequence[float]) -> Workload:
    return workload.burst(_packets(options), _rate(options), shares)


def _poisson(options: Options, shares: Sequence[float]) -> Workload:
    packets = _packets(options)
    if packets > workload.LISTED_MOST:
        raise UsageError(f"{packets:,} Poisson packets", f"at most {workload.LISTED_MOST:,}: each one's time is kept")
    return workload.poisson(packets, _rate(options), shares, _seed(options))


def _on_off(options: Options, shares: Sequence[float]) -> Workload:
    seconds = [units.parse_duration_ns(options[name]) / 1e9 for name in ("on", "off", "duration")]
    return workload.on_off(_rate(options), seconds[0], seconds[1], seconds[2], shares)


def _border_router(options: Options, shares: Sequence[float]) -> Workload:
    if len(set(shares)) > 1:
        raise UsageError("the border router has its own shares", "leave --share out, give --queues")
    return border_router.workload(len(shares))


FORMS = {
    "burst": Form(("packets", "rate"), (), "burst:packets=1M,rate=14.88Mpps", _burst),
    "poisson": Form(("packets", "rate"), ("seed",), "poisson:packets=1M,rate=100kpps", _poisson),
    "onoff": Form(("rate", "on", "off", "duration"), (), "onoff:rate=200kpps,on=10ms,off=90ms,duration=10s", _on_off),
    "border-router": Form((), (), "border-router", _border_router),
}


def parse(text: str, shares: Sequence[float]) -> Workload:
    """The workload of a text; ``shares``: what part of the packets each queue gets."""
    name, _, rest = text.partition(":")
    form = FORMS.get(name)
    if form is None:
        raise UsageError(f"there is no workload {name!r}", f"there are {', '.join(FORMS)}, and a file with -r")
    options: Options = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or key not in form.needed + form.optional or key in options:
            problem = f"{key} is given twice" if key in options else f"{part!r} is not one of its options"
            raise UsageError(f"workload {text!r}: {problem}", f"write it as {form.example}")
        options[key] = value
    missing = [key for key in form.needed if key not in options]
    if missing:
        raise UsageError(f"workload {text!r} has no {' and no '.join(missing)}", f"write it as {form.example}")
    return form.make(options, shares)


def parse_shares(text: str) -> tuple[float, ...]:
    """``0.5,0.3,0.2``: the part of the packets that each queue gets; they need not add up to 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not 1 <= len(shares) <= SHARES_MOST or min(shares) < 0 or not 0 < sum(shares) < float("inf"):
        raise UsageError(f"{text!r} is not a list of shares", "write it as 0.5,0.3,0.2")
    return shares


def _packets(options: Options) -> int:
    packets = units.parse_count(options["packets"])
    if not 1 <= packets <= workload.PACKETS_MOST:
        raise UsageError(f"{packets:,} packets", "a workload has 1 to 10^12")
    return packets


def _rate(options: Options) -> float:
    rate_pps = units.parse_packet_rate(options["rate"])
    if not 1 <= rate_pps <= workload.PS:
        raise UsageError(f"a rate of {rate_pps} packets a second", "a workload's rate is 1 p/s to 10^12 p/s")
    return rate_pps


def _seed(options: Options) -> int:
    return units.parse_count(options.get("seed", "1"))
