import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr

import pytest
import structlog

from sidegate import log


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    # basicConfig(force=True) closes the handlers that it replaces, pytest's own among them.
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(params=["file", "terminal"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def written(act: Callable[[], object], level: str = "info", kind: str = "file") -> str:
    """What reaches standard error, of that kind, while `act` runs under a log of that level."""
    stream = Terminal() if kind == "terminal" else io.StringIO()
    with redirect_stderr(stream):
        log.configure(level)
        act()
    return stream.getvalue()


def test_elsewhere_than_on_a_terminal_each_event_is_a_json_line() -> None:
    out = written(lambda: log.get_logger("loop").info("network made", network="sidegate-home--db", ports=(1, 2)))
    event = json.loads(out)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "level": "info",
        "logger": "loop",
        "event": "network made",
        "network": "sidegate-home--db",
        "ports": [1, 2],
    }
    assert out.count("\n") == 1


def test_events_below_the_level_are_not_written() -> None:
    logger = log.get_logger("loop")
    assert written(lambda: logger.info("quiet"), "warning") == ""
    assert json.loads(written(lambda: logger.error("loud"), "warning"))["event"] == "loud"


def test_secrets_are_masked_whatever_the_form(kind: str) -> None:
    secrets = dict.fromkeys(("password", "root_password", "value", "secret"), "p4ss")
    out = written(lambda: log.get_logger("api").info("set", key="DB_USER", **secrets), kind=kind)
    assert "p4ss" not in out
    assert out.count("***") == len(secrets)
    assert "DB_USER" in out


def test_a_traceback_shows_no_local_variables(kind: str) -> None:
    def fail(password: str) -> None:
        raise RuntimeError(f"{len(password)} characters")

    def act() -> None:
        try:
            fail("p4" + "ss")
        except RuntimeError:
            log.get_logger("api").exception("failed")

    out = written(act, kind=kind)
    assert "RuntimeError: 4 characters" in out
    assert "p4ss" not in out


def test_a_terminal_never_obeys_a_label() -> None:
    out = written(
        lambda: log.get_logger("labels").warning("ignored \x1b[2J", label="\x1b]0;owned\x07 \x9b2J"), kind="terminal"
    )
    for obeyed in ("\x1b[2J", "\x1b]0", "\x07", "\x9b"):
        assert obeyed not in out
    assert "x1b]0;owned" in out


def test_what_libraries_log_comes_out_in_the_same_form(kind: str) -> None:
    def act() -> None:
        logging.getLogger("asyncio").warning("slow callback %d", 7)
        logging.getLogger("urllib3").info("chatter")

    (line,) = written(act, "debug", kind).splitlines()
    assert "slow callback 7" in line
    assert "asyncio" in line
    if kind == "file":
        assert json.loads(line)["level"] == "warning"


def test_a_lost_terminal_does_not_stop_anything() -> None:
    stream = io.StringIO()
    with redirect_stderr(stream):
        log.configure("info")
        stream.close()
        log.get_logger("loop").info("nobody reads this")
