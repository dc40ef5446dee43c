"""Asking the engine, the kernel and the host's tools. Decides nothing and changes nothing."""
