"""Who a client is."""

import pytest

from sidegate.proxy.peer import describe


@pytest.mark.parametrize(
    ("peer", "own", "address", "local"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "127.0.0.1", "127.9.9.9", True),
        ("::1", "::1", "::1", True),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.1", "192.0.2.7", False),
        ("2001:db8::7", "2001:db8::1", "2001:db8::7", False),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80::1", False),
    ],
)
def test_a_client_is_local_when_it_comes_from_this_machine(peer: str, own: str, address: str, local: bool) -> None:
    found = describe((peer, 50000), (own, 80))
    assert (found.address, found.local) == (address, local)
    assert (
        found.forwarded
        == (
            f"X-Forwarded-For: {address}\r\nX-Real-IP: {address}\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 80\r\n"
        ).encode()
    )


def test_a_client_that_is_gone_already_is_nobody() -> None:
    assert describe(None, None).local is False
