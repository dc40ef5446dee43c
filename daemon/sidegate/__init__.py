"""Sidegate: connections for containers, one daemon per Docker node."""

__version__ = "0.1.0"
