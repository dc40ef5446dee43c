"""The calls of the daemon itself: status, audit, purge."""

from sidegate.api import schemas
from sidegate.api.calls.base import Call, always

CALLS: tuple[Call, ...] = (
    Call("GET", "/v1/status", ("status",), "How the daemon is", schemas.Status, lambda c, a: c.node.status()),
    Call(
        "GET",
        "/v1/audit",
        ("audit",),
        "What was changed or revealed, by whom, the newest first",
        list[schemas.AuditView],
        lambda c, a: c.node.audit(a.query.limit),
        query=schemas.AuditQuery,
    ),
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
