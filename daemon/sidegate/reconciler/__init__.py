"""Observe, reconcile, apply: the only writer of the engine and of the data plane."""
