"""The simulated engines: a file each, and a line in TABLE."""

from __future__ import annotations

from wirecap.sim.engines.base import Engine
from wirecap.sim.engines.dna import Dna
from wirecap.sim.engines.netmap import Netmap
from wirecap.sim.engines.pf_ring import PfRing
from wirecap.sim.engines.wirecap import WireCap

TABLE: dict[str, type[Engine]] = {engine.name: engine for engine in (PfRing, Dna, Netmap, WireCap)}

__all__ = ["TABLE", "Dna", "Engine", "Netmap", "PfRing", "WireCap"]
