import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidegate.api import schemas
from sidegate.api.client import Client, find_socket, quote
from sidegate.errors import DaemonUnreachableError, InvalidInputError, SidegateError


@contextmanager
def server(path: Path, answer: bytes | None) -> Iterator[None]:
    """Answers one connection with these bytes and closes it; None: never answers."""
    done = threading.Event()

    def run(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            if answer is None:
                done.wait()
            else:
                peer.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=run, args=(listener,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def test_the_socket_that_is_named_wins() -> None:
    environ = {"SIDEGATE_RUNTIME_DIR": "/a"}
    assert find_socket("/b/c.sock", environ) == Path("/b/c.sock")
    assert find_socket(None, environ) == Path("/a/control.sock")


def test_else_it_is_the_first_of_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidegate.api.client.DEFAULT_PATH", tmp_path / "system.sock")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert find_socket(None, environ) == tmp_path / "system.sock"
    own = tmp_path / "sidegate" / "control.sock"
    own.parent.mkdir()
    own.touch()
    assert find_socket(None, environ) == own
    environ = {"HOME": str(tmp_path / "home")}  # a session without a runtime directory
    assert find_socket(None, environ) == tmp_path / "system.sock"
    beside = tmp_path / "home/.local/state/sidegate/run/control.sock"
    beside.parent.mkdir(parents=True)
    beside.touch()
    assert find_socket(None, environ) == beside
    (tmp_path / "system.sock").touch()
    assert find_socket(None, environ) == tmp_path / "system.sock"


def test_no_socket_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachableError) as caught:
        Client(tmp_path / "none.sock").call("GET", "/v1/status", schemas.Status)
    assert str(caught.value) == (
        f"no Sidegate daemon answers on {tmp_path}/none.sock: start one with `sidegate run` "
        "(`sidegate run --dev` for your own compose projects), or name its socket with --socket"
    )
    assert caught.value.exit_status == 3


def test_a_dead_socket_says_the_same(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with pytest.raises(DaemonUnreachableError, match="no Sidegate daemon answers"):
        Client(tmp_path / "dead.sock").call("GET", "/v1/status", schemas.Status)


def test_a_full_queue_is_waited_for_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        with pytest.raises(DaemonUnreachableError, match="takes no calls"):
            Client(path, seconds=0.05).call("GET", "/v1/status", schemas.Status)
        # While it waits to try again somebody is taken out of the queue.
        monkeypatch.setattr("sidegate.api.client.time.sleep", lambda _: listener.accept()[0].close())
        with pytest.raises(DaemonUnreachableError, match="did not answer within"):
            Client(path, seconds=0.5).call("GET", "/v1/status", schemas.Status)


def test_a_daemon_that_ends_before_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with server(path, b""), pytest.raises(DaemonUnreachableError, match="ended before it answered"):
        Client(path).call("GET", "/v1/status", schemas.Status)


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with server(path, None), pytest.raises(DaemonUnreachableError, match=r"within 0\.05 s: it may still do"):
        Client(path, seconds=0.05).call("GET", "/v1/status", schemas.Status)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "another version"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "another version"),
        (b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nContent-Length: 3\r\n\r\nabc", "answered 502: abc"),
        (
            b"HTTP/1.1 418 X\r\nContent-Type: application/problem+json\r\nContent-Length: 3\r\n\r\nabc",
            "answered 418: abc",
        ),
    ],
)
def test_answers_that_are_not_understood(tmp_path: Path, answer: bytes, words: str) -> None:
    path = tmp_path / "s"
    with server(path, answer), pytest.raises(SidegateError, match=words):
        Client(path).call("GET", "/v1/status", schemas.Status)


def test_a_code_that_is_not_known_is_still_an_error_with_its_sentence(tmp_path: Path) -> None:
    path = tmp_path / "s"
    body = b'{"title":"X","status":418,"code":"from-the-future","detail":"tea now"}'
    head = b"HTTP/1.1 418 X\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n" % len(body)
    with server(path, head + body), pytest.raises(SidegateError, match=r"^tea now$") as caught:
        Client(path).call("GET", "/v1/status", schemas.Status)
    assert caught.value.exit_status == 1


def test_parts_of_a_path_are_encoded() -> None:
    assert quote("a/b", "../é?") == "a%2Fb/..%2F%C3%A9%3F"


def test_an_empty_name_is_told_from_an_unknown_call() -> None:
    with pytest.raises(InvalidInputError, match="a name is empty"):
        quote("shop", "")
