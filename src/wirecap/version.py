"""The version of this package; every other file asks here."""

__version__ = "0.1.0"
