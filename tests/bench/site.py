"""What every server of a measurement is told to serve: the same ports, names and files for all."""

from dataclasses import dataclass

APPS = 10
"""How many apps the hosts of a site are spread over."""


@dataclass(frozen=True, slots=True)
class Site:
    """One server's part. `backend` and `echo`: ports of the far ends on 127.0.0.1. `http`, `https`: where to listen.
    `chain`, `key`, `pem`: files of one certificate, `pem` with both. `log`: the access log's file, empty: none.
    """

    directory: str
    backend: int
    echo: int
    http: int
    https: int
    chain: str
    key: str
    pem: str
    log: str = ""
    workers: int = 1
    hosts: tuple[str, ...] = ("localhost",)
