"""Whether anything in nftables has changed since: the kernel counts its transactions, in each network namespace.

NFT_MSG_GETGEN of linux/netfilter/nf_tables.h. Elements that time out are no transaction.
"""

import socket

from sidegate.adapters.nft.netlink import NLM_F_REQUEST, body_of, message, messages

GET_GENERATION, NEW_GENERATION = 10 << 8 | 16, 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES
GENERATION_ID = 1  # NFTA_GEN_ID
SECONDS = 0.1


def generation(link: socket.socket) -> int | None:
    """The number of the last transaction, of the network namespace of a netlink socket; None where the kernel does not
    say. Raises OSError."""
    link.settimeout(SECONDS)
    link.send(message(GET_GENERATION, NLM_F_REQUEST))
    for kind, payload in messages(link.recv(4096)):
        if kind == NEW_GENERATION and (number := body_of(payload).get(GENERATION_ID)):
            return int.from_bytes(number, "big")
    return None
