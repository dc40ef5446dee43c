"""What the audit trail holds: who did what, and how it ended."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who (the peer of the control socket) did what to what, when (Unix time in seconds) and with which outcome.

    Never holds a secret value. `id` rises; 0 while it is not written.
    """

    at: float
    uid: int
    pid: int
    user: str
    verb: str
    target: str
    outcome: str
    id: int = field(default=0, compare=False)
