"""Whose sessions those are that a MySQL server's process list holds: its clients by address, port and name."""

import socket
from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv4Network

from sidegate.core.sessions import Client


def find_clients(
    sessions: Mapping[int, str], clients: Collection[Client], own_name: str, own_address: str
) -> dict[Client, int]:
    """Which of `sessions`, a server's by number as its process list names their clients, is each client's: the newest,
    since an older one of the same address and port has lost its client long ago. Who is shown as `own_name` comes from
    `own_address`."""
    found: dict[Client, int] = {}
    for number, named in sessions.items():
        host, _, port = named.rpartition(":")
        client = own_address if host == own_name else host.removeprefix("::ffff:"), int(port) if port.isdecimal() else 0
        if client in clients:
            found[client] = max(number, found.get(client, 0))
    return found


def host_of(client: str) -> str:
    """What the process list's Host says of a client less its port."""
    return client.rpartition(":")[0] or client


def own_address_to(address: str, port: int) -> str:
    """Where connections of this process to a server come from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, port))
        return str(probe.getsockname()[0])


def is_peer(client: str, peers: IPv4Network, names: frozenset[str]) -> bool:
    """Whether a client is in `peers`, or is named by or below one of `names`.

    `client` is the process list's Host: "address:port", "name:port" or, on the server's own socket, "localhost".
    """
    host = host_of(client)
    try:
        return IPv4Address(host.removeprefix("::ffff:")) in peers
    except ValueError:
        return any(host == name or host.endswith("." + name) for name in names)
