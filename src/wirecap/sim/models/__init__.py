"""The simulated engines."""

from __future__ import annotations

from wirecap.sim.models.model import Model
from wirecap.sim.models.ring_models import Dna, Netmap, PfRing
from wirecap.sim.models.table import TABLE
from wirecap.sim.models.wirecap import WireCap

__all__ = ["TABLE", "Dna", "Model", "Netmap", "PfRing", "WireCap"]
