"""Whether anything in nftables has changed since: the kernel counts its transactions, in each network namespace.

NFT_MSG_GETGEN of linux/netfilter/nf_tables.h, over a socket of `sidegate.adapters.nft.conntrack.open_socket`. Elements
that time out are no transaction.
"""

import socket
import struct

GET_GENERATION, NEW_GENERATION = 10 << 8 | 16, 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES
NLM_F_REQUEST = 1
GENERATION_ID = 1  # NFTA_GEN_ID
_QUESTION = struct.Struct("=IHHIIBBH")
_ANSWER = struct.Struct("=IHHIIBBHHH4s")
SECONDS = 0.1


def generation(link: socket.socket) -> int | None:
    """The number of the last transaction, of the socket's network namespace; None where the kernel does not say.
    About 10 us. Raises OSError."""
    link.settimeout(SECONDS)
    link.send(_QUESTION.pack(_QUESTION.size, GET_GENERATION, NLM_F_REQUEST, 0, 0, socket.AF_UNSPEC, 0, 0))
    answer = link.recv(4096)
    if len(answer) < _ANSWER.size:
        return None
    _, kind, _, _, _, _, _, _, _, attribute, number = _ANSWER.unpack_from(answer)
    return int.from_bytes(number, "big") if (kind, attribute) == (NEW_GENERATION, GENERATION_ID) else None
