"""The log: events with fields on standard error, coloured lines on a terminal and JSON lines elsewhere.

Secrets never get in, whoever logs them; nor do control characters, since names and labels are written by strangers.
"""

import logging
import sys
from contextlib import suppress

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_SECRET_FIELDS = frozenset({"password", "root_password", "secret", "value"})
_MASK = "***"
_UNPRINTABLE = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose events carry `logger=name`. A call below the configured level costs one empty method."""
    logger: FilteringBoundLogger = structlog.get_logger(name)
    return logger


def configure(level: str) -> None:
    """Set up the log of this process, once, before the first event; `level` is debug, info, warning or error.

    What libraries log through `logging` comes out in the same form, warnings and worse.
    """
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _mask_secrets,
        # Never tracebacks with local variables: they show passwords.
        structlog.processors.format_exc_info,
    ]
    rendering: list[Processor]
    if sys.stderr.isatty():
        rendering = [_escape, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    else:
        rendering = [structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StandardError,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


class _StandardError:
    """Writes a line at a time to whatever sys.stderr is then."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        # A terminal that went away must not take the daemon with it.
        with suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")

    debug = info = warning = error = critical = msg


def _mask_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in _SECRET_FIELDS & event.keys():
        event[name] = _MASK
    return event


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal, which would obey the control characters in a container's label. JSON escapes them itself."""
    return {name: text.translate(_UNPRINTABLE) if isinstance(text, str) else text for name, text in event.items()}
