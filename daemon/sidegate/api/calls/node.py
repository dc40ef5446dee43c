"""The calls of the daemon itself: status, events, audit, metrics, purge."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, Text, always
from sidegate.api.commands import Commands
from sidegate.api.metrics import CONTENT_TYPE


async def _metrics(commands: Commands, _: Asked) -> Text:
    return Text(await commands.metrics.scrape(), CONTENT_TYPE)


CALLS: tuple[Call, ...] = (
    Call("GET", "/v1/status", ("status",), "How the daemon is", schemas.Status, lambda c, a: c.node.status()),
    Call(
        "GET",
        "/v1/events",
        ("events",),
        "What has happened, and what happens",
        list[schemas.EventView],
        lambda c, a: c.node.events(a.query),
        query=schemas.EventsQuery,
        events=True,
    ),
    Call(
        "GET",
        "/v1/audit",
        ("audit",),
        "What was changed or revealed, by whom, the newest first",
        list[schemas.AuditView],
        lambda c, a: c.node.audit(a.query),
        query=schemas.AuditQuery,
    ),
    Call("GET", "/metrics", ("metrics",), "Everything that is counted, for Prometheus", str, _metrics),
    Call(
        "POST",
        "/v1/purge",
        ("purge",),
        "Remove everything of ours, and stop",
        schemas.Purged,
        lambda c, a: c.node.purge(),
        audited=always,
    ),
)
