"""External connections carried by the kernel: nftables rules in a table of our own."""

from sidegate.adapters.nft.forwarder import KernelForwarder

__all__ = ["KernelForwarder"]
