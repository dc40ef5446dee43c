"""Ports that stay free: for tests that need one whose number is known before somebody listens there, or again after."""

import itertools
import os
import socket

_numbers = itertools.count(20000 + os.getpid() * 97 % 5000)
_claims: list[socket.socket] = []


def free_port() -> int:
    """One that nobody listens at and nobody else is given here as long as this run lasts, in runs beside it neither.

    It lies below the ephemeral ones: the kernel gives it to nobody, no client either, while nobody listens there.
    """
    while True:
        number = next(_numbers)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sidegate-test-port-{number}")
            with socket.socket() as probe:
                probe.bind(("", number))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return number
