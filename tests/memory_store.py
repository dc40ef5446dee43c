"""The store without a file, until the real one stands."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sidegate.api.world import AuditEntry
from sidegate.core.model import DatabaseDetails, External, Intent, Pair, Variable
from sidegate.errors import SidegateError


class MemoryStore:
    def __init__(self) -> None:
        self.intent = Intent()
        self.entries: list[AuditEntry] = []
        self.audit_fault: SidegateError | None = None

    async def add_connection(self, pair: Pair, app: str, variables: Sequence[Variable]) -> Intent:
        env = {**self.intent.env, app: (*self.intent.env.get(app, ()), *variables)}
        return self._keep(connections=self.intent.connections | {pair}, env=env)

    async def remove_connection(self, pair: Pair, *, keep_variables: bool) -> Intent:
        sources = {} if keep_variables else {pair.a: f"connection:{pair.b}", pair.b: f"connection:{pair.a}"}
        env = {app: tuple(v for v in vs if v.source != sources.get(app)) for app, vs in self.intent.env.items()}
        return self._keep(connections=self.intent.connections - {pair}, env={a: v for a, v in env.items() if v})

    async def set_external(self, database: str, port: int, *, enabled: bool) -> Intent:
        return self._keep(externals={**self.intent.externals, database: External(port, enabled)})

    async def set_database_details(self, name: str, details: DatabaseDetails) -> Intent:
        return self._keep(databases={**self.intent.databases, name: details})

    async def replace_claims(self, claims: Mapping[str, str]) -> Intent:
        return self._keep(claims=dict(claims))

    async def purge(self) -> Intent:
        self.intent = Intent()
        return self.intent

    async def append_audit(self, entry: AuditEntry) -> None:
        if self.audit_fault:
            raise self.audit_fault
        self.entries.append(entry)

    async def audit(self, limit: int) -> Sequence[AuditEntry]:
        return self.entries[::-1][:limit]

    def _keep(self, **changes: object) -> Intent:
        self.intent = replace(self.intent, **changes)  # type: ignore[arg-type]
        return self.intent
