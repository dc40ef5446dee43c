"""The client of a session whose other end has vanished without a word, and what makes it hear of that."""

import os
import socket

import pytest

from sidegate.adapters.nft.conntrack import Flow
from sidegate.adapters.nft.provoke import provoke

TCP_REPAIR = 19
"""linux/tcp.h: a socket that is closed in this state says nothing."""


@pytest.mark.skipif(os.geteuid() != 0, reason="CAP_NET_ADMIN and CAP_NET_RAW are root's")
def test_a_client_hears_of_an_end_that_was_never_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        session, _ = server.accept()
        session.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        session.close()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(20)
        ours, theirs = server.getsockname(), client.getsockname()
        provoke([Flow(theirs, ours, ours, theirs, "ESTABLISHED", b"")])
        with pytest.raises(ConnectionResetError):
            client.recv(1)
