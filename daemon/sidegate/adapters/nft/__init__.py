"""nftables rules of our own: external connections carried by the kernel, and the fence around our networks."""

from sidegate.adapters.nft.fence import NftFence
from sidegate.adapters.nft.forwarder import KernelForwarder

__all__ = ["KernelForwarder", "NftFence"]
