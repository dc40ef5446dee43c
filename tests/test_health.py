"""The container's health check, run as the engine runs it."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sidegate import health


def check(directory: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-ISB", health.__file__],
        env={"SIDEGATE_RUNTIME_DIR": str(directory)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (b'{"ready": true, "problems": []}', (0, "")),
        (b'{"ready": false}', (1, "the daemon is not ready\n")),
        (b"nonsense", (1, "the control socket {} answered something else than a status\n")),
    ],
)
def test_only_a_daemon_that_is_ready_is_healthy(tmp_path: Path, body: bytes, outcome: tuple[int, str]) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(4096).startswith(b"GET /v1/status HTTP/1.0\r\n")
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)

        thread = threading.Thread(target=answer)
        thread.start()
        assert check(tmp_path) == (outcome[0], outcome[1].format(path))
        thread.join()


def test_without_a_daemon_the_reason_is_said(tmp_path: Path) -> None:
    status, said = check(tmp_path)
    assert (status, said) == (
        1,
        f"the control socket {tmp_path}/control.sock does not answer: No such file or directory\n",
    )
