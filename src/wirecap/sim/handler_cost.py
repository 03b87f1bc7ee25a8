"""What a packet costs the handler: x filters, a rate, or a distribution; and what forwarding it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError
from wirecap.kernels.sim.handler_cost import QUANTILES
from wirecap.sim.workload import LATEST_PS, PS, interval_ps, wire_rate_pps
from wirecap.units import parse_packet_rate

PAPER_X, PAPER_PPS = 300, 38_844
"""What one thread of the paper's machine handled with 300 filters per packet [recalled, WireCAP, IMC 2014]."""
IDLE_PS = 50_000
"""A handler that does nothing (x = 0): less than the 67.2 ns of 64-byte frames at 10 Gbit/s, which DNA and WireCAP
keep up with in figure 8 [derived]."""
FILTER_PS = round((PS / PAPER_PPS - IDLE_PS) / PAPER_X)
"""One filter: what remains of 1 / 38,844 s, divided by 300 [derived]."""


@dataclass(frozen=True)
class HandlerCost:
    """A handler's cost: ``costs`` is one number, or QUANTILES equally likely ones, in int64 ps per packet."""

    name: str
    costs: NDArray[np.int64]

    @property
    def mean_ps(self) -> float:
        return float(self.costs.mean())

    @property
    def rate_pps(self) -> float:
        """Packets per second that one handler can process."""
        return PS / self.mean_ps

    def plus(self, extra_ps: int) -> HandlerCost:
        """The same cost plus ``extra_ps`` for each packet."""
        return HandlerCost(self.name, self.costs + extra_ps) if extra_ps else self


def filters(x: int) -> HandlerCost:
    """The paper's pkt_handler, which runs a BPF filter x times."""
    cost = round(PS / PAPER_PPS) if x == PAPER_X else IDLE_PS + x * FILTER_PS
    return HandlerCost(f"x={x}", np.array([cost], np.int64))


def rate(rate_pps: float) -> HandlerCost:
    """A handler that takes the same time for each packet."""
    if not PS / LATEST_PS <= rate_pps <= PS:
        raise UsageError(
            f"unsupported handler rate: {rate_pps:g} packets per second", "write it as pkt_handler:rate=38844"
        )
    return HandlerCost(f"{rate_pps:,.0f} p/s", np.array([max(1, round(PS / rate_pps))], np.int64))


def exponential(rate_pps: float) -> HandlerCost:
    """Exponentially distributed costs with the mean 1 / rate."""
    middle = (np.arange(QUANTILES) + 0.5) / QUANTILES
    return _scaled(f"exponential, {rate_pps:,.0f} p/s", -np.log1p(-middle), rate_pps)


def lognormal(rate_pps: float, sigma: float) -> HandlerCost:
    """Log-normal costs with deviation ``sigma`` and the mean 1 / rate: a few are far above it."""
    normal = NormalDist(0, sigma)
    middle = np.array([normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    return _scaled(f"log-normal ({sigma:g}), {rate_pps:,.0f} p/s", np.exp(middle), rate_pps)


def measured(path: str) -> HandlerCost:
    """Costs from a file with one number of nanoseconds per line, each as likely as it is frequent there."""
    try:
        lines = (line.partition("#")[0].strip() for line in Path(path).read_text().splitlines())
        samples = np.array([float(line) for line in lines if line])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}", "name a file with a cost in ns on each line") from None
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "put a cost in ns on each line") from None
    if not samples.size or not ((samples > 0) & (samples <= LATEST_PS / 1000)).all():
        raise UsageError(f"{path}: a cost must be above 0 and at most 26 days", "put a cost in ns on each line")
    middle = np.quantile(samples, (np.arange(QUANTILES) + 0.5) / QUANTILES)
    return _scaled(f"as measured in {Path(path).name}", middle, 1e9 / float(samples.mean()))


def _scaled(name: str, shape: NDArray[np.float64], rate_pps: float) -> HandlerCost:
    if not 0 < rate_pps <= PS:
        raise UsageError(
            f"unsupported handler rate: {rate_pps:g} packets per second", "write it as exponential:rate=38844"
        )
    costs = np.maximum(1, np.round(shape / shape.mean() * (PS / rate_pps)))
    if not costs.max() <= LATEST_PS:
        raise UsageError(f"{name}: a packet would take more than 26 days", "use a faster handler")
    return HandlerCost(name, costs.astype(np.int64))


FORMS = "pkt_handler:x=300, pkt_handler:rate=38844, exponential:rate=38844, lognormal:rate=38844,sigma=1, costs:file=F"


def parse_handler_cost(text: str) -> HandlerCost:
    """Parse a load as written on the command line (FORMS)."""
    spec = HandlerSpec.parse(text)
    makers: dict[tuple[str, frozenset[str]], Callable[[dict[str, str]], HandlerCost]] = {
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
        raise UsageError(f"handler {text!r} cannot be simulated", f"use one of {FORMS}")
    return make(dict(spec.options))


def _whole(text: str, value: str) -> int:
    if not value.isdecimal() or int(value) > 10**6:
        raise UsageError(f"handler {text!r}: x must be a whole number up to 10^6", "write it as pkt_handler:x=300")
    return int(value)


def _positive(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 10:
        raise UsageError(
            f"handler {text!r}: sigma must be above 0 and at most 10", "write it as lognormal:rate=38844,sigma=1"
        )
    return number


FORWARD_PS = 200_000
"""What forwarding adds to the cost of a packet: two descriptors and their share of a doorbell [derived]."""
LINK_BPS = 10e9


def transmit_ps(frame_bytes: int) -> int:
    """How long a frame occupies the outgoing NIC's wire, which all queues share."""
    return interval_ps(wire_rate_pps(LINK_BPS, frame_bytes))


TRANSMIT_PS = transmit_ps(64)
