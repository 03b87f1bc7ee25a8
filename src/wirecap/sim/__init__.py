"""Capture engines in virtual time: the paper's experiments without its machines (docs/simulator.md)."""
