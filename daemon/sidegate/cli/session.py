"""What every verb of the command line shares: finding the daemon, calling it, JSON or a table, progress, questions."""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import click
import msgspec

from sidegate.api.client import SECONDS, Client, Reply, Upload, find_socket
from sidegate.cli.telling import telling

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
PROGRESS_AFTER = 2.0  # seconds
ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}
"""Control characters that JSON lets stand, and that a terminal would obey."""


@dataclass
class Session:
    """One run of the command line. `as_json` None: tables on a terminal, JSON elsewhere."""

    socket: str | None = None
    as_json: bool | None = None

    @property
    def json(self) -> bool:
        return not sys.stdout.isatty() if self.as_json is None else self.as_json

    def call(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
        doing: str = "",
        seconds: float = SECONDS,
    ) -> Reply[T]:
        """One call of the control API; `doing` is shown once it has taken long."""
        client = Client(find_socket(self.socket, os.environ), seconds)
        with progress(doing or "waiting for the daemon"), contextlib.nullcontext() if method == "GET" else goes_on():
            return client.call(method, path, result, query=query, body=body)

    def stream(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        query: Mapping[str, str] | None = None,
        body: msgspec.Struct | None = None,
        upload: Upload | None = None,
        doing: str = "",
        keep: bool = False,
        status: Callable[[str], str] = str,
        seconds: float = SECONDS,
    ) -> Reply[T]:
        """A call that tells how it gets on: on standard error, nothing where --json was said.

        On a terminal it is one line with the latest and the time; `keep`: each stays, as each does in a pipe, and
        what `status` makes of it, where it makes something, is in the last line.
        """
        client = Client(find_socket(self.socket, os.environ), seconds)
        with telling(doing or "waiting for the daemon", silent=self.as_json is True, keep=keep) as tell:

            def say(text: str) -> None:
                tell.say(text)
                if keep and (words := status(text)):
                    tell.status(words)

            if upload is not None:
                upload = Upload(
                    upload.content_type, _counted(upload.pieces, lambda sent: tell.status(f"{doing}: {sent}"))
                )
            return client.stream(method, path, result, say, query=query, body=body, upload=upload)

    def show(self, reply: Reply[T], table: Callable[[T], None]) -> None:
        """Print an answer: the daemon's own JSON, or what `table` makes of it."""
        if self.json:
            click.echo(json.dumps(json.loads(reply.body), indent=2, ensure_ascii=False).translate(ESCAPED))
        else:
            table(reply.value)


def _counted(pieces: Iterable[bytes], told: Callable[[str], None]) -> Iterator[bytes]:
    """`pieces`, and how much has gone, each time that it is another megabyte."""
    sent = shown = 0
    for piece in pieces:
        yield piece
        sent += len(piece)
        if sent // 10**6 != shown:
            shown = sent // 10**6
            told(f"{shown} MB sent")


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(context.ensure_object(Session), name, value)

    return keep


_COMMON = (
    click.option(
        "--json/--no-json",
        " /--table",
        default=None,
        expose_value=False,
        callback=_keep("as_json"),
        help="JSON or tables; by default tables on a terminal and JSON in a pipe.",
    ),
    click.option(
        "--socket",
        metavar="PATH",
        expose_value=False,
        callback=_keep("socket"),
        help="The daemon's control socket.",
    ),
)


def common(function: F) -> F:
    """The options that every verb takes, and the group too: `--json` and `--socket`."""
    for option in reversed(_COMMON):
        function = option(function)
    return function


pass_session = click.make_pass_decorator(Session, ensure=True)


@contextlib.contextmanager
def progress(doing: str) -> Iterator[None]:
    """A spinner on a terminal's standard error, for what takes longer than PROGRESS_AFTER."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()

    def spin() -> None:
        if not done.wait(PROGRESS_AFTER):
            from rich.console import Console  # late: it takes longer to import than most verbs to run

            with Console(stderr=True).status(f"{doing} …"):
                done.wait()

    spinner = threading.Thread(target=spin, name="progress")
    spinner.start()
    try:
        yield
    finally:
        done.set()
        spinner.join()


@contextlib.contextmanager
def goes_on(app: str = "") -> Iterator[None]:
    """Who leaves while a change is being made, of an app's containers where it is named, is told that it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        what, look = ("it", f"app show {app}") if app else ("what was asked for", "audit")
        click.echo(f"sidegate: not waiting any longer; {what} goes on: see `sidegate {look}`", err=True)
        raise SystemExit(130) from None


def confirm(question: str, yes: bool) -> None:
    """Go on after a yes; a no ends with exit status 1 and nothing changed. Without a terminal `--yes` is needed."""
    if yes:
        return
    require_terminal()
    if not click.confirm(question, err=True):
        nothing_changed()


def require_terminal() -> None:
    """Raise UsageError where nobody can answer a question."""
    if not sys.stdin.isatty():
        raise click.UsageError("there is nobody to ask here: say --yes")


def nothing_changed() -> NoReturn:
    """The end after a no."""
    click.echo("nothing was changed", err=True)
    raise SystemExit(1)
