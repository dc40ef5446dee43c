"""The container's health check: exit status 0 where the daemon is ready, else 1 with the reason on one line.

Run as a file by a bare interpreter, since it runs every few seconds: the standard library alone, and little of it.
"""

import json
import os
import socket
import sys

SECONDS = 4.0
"""Below the deadline of the Dockerfile's HEALTHCHECK."""


def fault(path: str) -> str:
    """Why the daemon behind this control socket is not ready; empty where it is."""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(path)
            sock.sendall(b"GET /v1/status HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        if json.loads(answer.partition(b"\r\n\r\n")[2])["ready"]:
            return ""
    except OSError as error:
        return f"the control socket {path} does not answer: {error.strerror or error}"
    except (ValueError, KeyError, TypeError):
        return f"the control socket {path} answered something else than a status"
    return "the daemon is not ready"


if __name__ == "__main__":
    reason = fault(os.environ.get("SIDEGATE_RUNTIME_DIR", "/run/sidegate") + "/control.sock")
    if reason:
        print(reason)
    sys.exit(bool(reason))
