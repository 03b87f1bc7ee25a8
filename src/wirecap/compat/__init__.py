"""Modules of other packages' names and surfaces, on this engine: ``from wirecap.compat import pcapy``."""
