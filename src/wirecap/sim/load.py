"""What a packet costs the handler: x filters, a rate, or a distribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from wirecap.config import HandlerSpec
from wirecap.errors import UsageError
from wirecap.kernels.sim_work import QUANTILES
from wirecap.sim.workload import LATEST_PS, PS
from wirecap.units import parse_packet_rate

PAPER_X, PAPER_PPS = 300, 38_844
"""What one thread of the paper's machine handled with 300 filters a packet [recalled, WireCAP, IMC 2014]."""
IDLE_PS = 50_000
"""A handler that does nothing (x = 0): below the 67.2 ns of 64-byte frames at 10 Gbit/s, which DNA and WireCAP
keep up with in figure 8 [derived]."""
FILTER_PS = round((PS / PAPER_PPS - IDLE_PS) / PAPER_X)
"""One filter: what remains of 1 / 38,844 s, by 300 [derived]."""


@dataclass(frozen=True)
class Load:
    """A handler's cost: ``costs`` is one number, or QUANTILES equally likely ones, int64 ps of a packet."""

    name: str
    costs: NDArray[np.int64]

    @property
    def mean_ps(self) -> float:
        return float(self.costs.mean())

    @property
    def rate_pps(self) -> float:
        """Packets a second that one handler can do."""
        return PS / self.mean_ps

    def plus(self, extra_ps: int) -> Load:
        """The same with ``extra_ps`` more for each packet."""
        return Load(self.name, self.costs + extra_ps) if extra_ps else self


def filters(x: int) -> Load:
    """The paper's pkt_handler: a BPF filter, x times."""
    cost = round(PS / PAPER_PPS) if x == PAPER_X else IDLE_PS + x * FILTER_PS
    return Load(f"x={x}", np.array([cost], np.int64))


def rate(rate_pps: float) -> Load:
    """A handler that takes the same time for each packet."""
    if not PS / LATEST_PS <= rate_pps <= PS:
        raise UsageError(f"a handler of {rate_pps:g} packets a second", "write it as pkt_handler:rate=38844")
    return Load(f"{rate_pps:,.0f} p/s", np.array([max(1, round(PS / rate_pps))], np.int64))


def exponential(rate_pps: float) -> Load:
    """Costs as of independent events, with the mean 1 / rate."""
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return _scaled(f"exponential, {rate_pps:,.0f} p/s", -np.log1p(-middle), rate_pps)


def lognormal(rate_pps: float, sigma: float) -> Load:
    """Costs whose logarithm is normal with deviation ``sigma``, with the mean 1 / rate: a few are far above it."""
    normal = NormalDist(0, sigma)
    middle = np.array([normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    return _scaled(f"log-normal ({sigma:g}), {rate_pps:,.0f} p/s", np.exp(middle), rate_pps)


def measured(path: str) -> Load:
    """Costs from a file: a number of nanoseconds a line, each as likely as it is frequent there."""
    try:
        lines = (line.partition("#")[0].strip() for line in Path(path).read_text().splitlines())
        samples = np.array([float(line) for line in lines if line])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file with a cost in ns on each line") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "it has a cost in ns on each line") from None
    if not samples.size or not ((samples > 0) & (samples <= LATEST_PS / 1000)).all():
        raise UsageError(f"{path}: costs are above 0 and up to 26 days, one on each line", "write them in nanoseconds")
    middle = np.quantile(samples, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return _scaled(f"as measured in {Path(path).name}", middle, 1e9 / float(samples.mean()))


def _scaled(name: str, shape: NDArray[np.float64], rate_pps: float) -> Load:
    if not 0 < rate_pps <= PS:
        raise UsageError(f"a handler of {rate_pps:g} packets a second", "write it as exponential:rate=38844")
    costs = np.maximum(1, np.round(shape / shape.mean() * (PS / rate_pps)))
    if not costs.max() <= LATEST_PS:
        raise UsageError(f"{name}: a packet would cost more than 26 days", "take a faster handler")
    return Load(name, costs.astype(np.int64))


FORMS = "pkt_handler:x=300, pkt_handler:rate=38844, exponential:rate=38844, lognormal:rate=38844,sigma=1, costs:file=F"


def parse(text: str) -> Load:
    """A load as the command line has it (FORMS)."""
    spec = HandlerSpec.parse(text)
    makers: dict[tuple[str, frozenset[str]], Callable[[dict[str, str]], Load]] = {
        ("count", frozenset()): lambda o: filters(0),
        ("pkt_handler", frozenset({"x"})): lambda o: filters(_whole(text, o["x"])),
        ("pkt_handler", frozenset({"rate"})): lambda o: rate(parse_packet_rate(o["rate"])),
        ("exponential", frozenset({"rate"})): lambda o: exponential(parse_packet_rate(o["rate"])),
        ("lognormal", frozenset({"rate", "sigma"})): lambda o: lognormal(
            parse_packet_rate(o["rate"]), _positive(text, o["sigma"])
        ),
        ("costs", frozenset({"file"})): lambda o: measured(o["file"]),
    }
    make = makers.get((spec.name, frozenset(spec.options)))
    if make is None:
        raise UsageError(f"handler {text!r} cannot be simulated", f"there are {FORMS}")
    return make(dict(spec.options))


def _whole(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) > 10**6:
        raise UsageError(f"handler {text!r}: x is a whole number", "write it as pkt_handler:x=300")
    return int(value)


def _positive(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 10:
        raise UsageError(f"handler {text!r}: sigma is above 0, at most 10", "write it as lognormal:rate=38844,sigma=1")
    return number
