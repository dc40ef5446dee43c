"""The daemon's events as they come, also over its restarts."""

import os
import time
from collections.abc import Callable, Iterator, Mapping

from sidegate.api.client import Client, ServerSent, find_socket
from sidegate.cli.session import Session
from sidegate.errors import DaemonUnreachableError

SILENCE_SECONDS = 40.0  # the daemon shows signs of life each 15 s
AGAIN_SECONDS = 0.5
LOST = "lost"
"""The kind of what says that events are missing."""


def follow(
    session: Session, query: Mapping[str, str], away: Callable[[str], None], *, patient: bool = False
) -> Iterator[ServerSent]:
    """Events, and signs of life, for ever. `away` is told why there are none: the daemon stopped, or does not answer.

    Raises DaemonUnreachableError where it does not answer at the first try, unless `patient`; and what it refuses.
    """
    client = Client(find_socket(session.socket, os.environ), SILENCE_SECONDS)
    last, begun = "", patient
    asked = dict(query)
    while True:
        try:
            for sent in client.events("/v1/events", query=asked, last_event_id=last):
                begun = True
                last = sent.id or last
                yield sent
            why = "the daemon has stopped"
        except DaemonUnreachableError as error:
            if not begun:
                raise
            why = str(error)
        away(why)
        if not last:  # nothing had happened: of the next daemon everything counts
            asked = {name: value for name, value in asked.items() if name != "limit"} | {"since": "0"}
        time.sleep(AGAIN_SECONDS)
