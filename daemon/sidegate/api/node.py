"""The verbs of the daemon itself: status, events, audit, purge."""

import asyncio
import difflib
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.own_databases import remove_containers
from sidegate.api.stale import stale_apps
from sidegate.api.world import World
from sidegate.core.desired import is_ours
from sidegate.core.durations import parse_duration
from sidegate.core.kinds import KINDS
from sidegate.errors import EngineUnavailableError, InvalidInputError, SidegateError, StoreError

VERSION_SECONDS = 2.0
AUDIT_MOST = 1000
EVENTS_MOST = 1000
ID_MOST = 2**63 - 1
EVENTS = 100  # in a list, where nobody says how many


@dataclass(frozen=True, slots=True)
class NodeVerbs:
    """`started` by the world's clock."""

    world: World
    started: float

    @property
    def ready(self) -> bool:
        """Whether routes are published and a worker serves. The engine may be away: what was true last is served."""
        plane = self.world.data_plane
        return bool(
            self.world.loop.last.finished and plane.published() and any(w.state == "serving" for w in plane.workers())
        )

    def summary(self) -> str:
        """How everything is, in a line."""
        last, external = self.world.loop.last, self.world.intent.externals.values()
        if not self.ready:
            return "no worker serves" if self.world.data_plane.published() else "starting"
        counts = {
            "apps": len(self.world.apps),
            "databases": len(self.world.databases),
            "external connections on": sum(e.enabled for e in external),
        }
        line = ", ".join(f"{number} {what}" for what, number in counts.items())
        problems = self.world.problems()
        if not last.engine_up:
            return f"{line}; engine: {last.engine_fault}"
        return f"{line}; {len(problems)} problems: {problems[0].text}" if problems else line

    async def status(self) -> schemas.Status:
        """How everything is, without waiting for anything but the engine's version (2 s)."""
        world, last = self.world, self.world.loop.last
        workers = world.data_plane.workers()
        return schemas.Status(
            version=world.version,
            uptime=round(world.clock() - self.started, 3),
            ready=self.ready,
            degraded=bool(last.problems),
            engine=schemas.EngineView(
                connected=last.engine_up,
                version=await self._engine_version() if last.engine_up else None,
                fault=None if last.engine_up else last.engine_fault,
            ),
            workers=[
                schemas.WorkerView(slot=w.slot, pid=w.pid, state=w.state, version=w.version, restarts=w.restarts)
                for w in workers
            ],
            counts=schemas.CountsView(
                apps=len(world.apps),
                databases=len(world.databases),
                connections=len(world.intent.connections),
                external_on=sum(external.enabled for external in world.intent.externals.values()),
                stale=len(stale_apps(world)),
            ),
            last_pass=schemas.PassView(
                seconds=round(last.seconds, 4),
                actions=last.actions,
                failures=[str(failure) for failure in last.failures],
                finished=last.finished or None,
            ),
            pool=self.pool(),
            problems=world.problems(),
            held=dict(world.intent.modes),
            forwarder=self._forwarder(),
            listening=self._listening(),
            left_out=[schemas.LeftOutView(container=o.container, reason=o.reason) for o in world.discovery.left_out],
        )

    async def events(self, asked: schemas.EventsQuery) -> list[schemas.EventView]:
        """What has happened last, the oldest first. Raises InvalidInputError."""
        kinds = event_kinds(asked.kind)
        _check_id(asked.since)
        limit = EVENTS if asked.limit is None else asked.limit
        _check_limit(limit, EVENTS_MOST)
        return self.world.events.last(limit, since=asked.since or 0, kinds=kinds)

    def follow_from(self, asked: schemas.EventsQuery, last_event_id: int | None) -> tuple[int, frozenset[str]]:
        """The event after which a stream begins, and the kinds that are in it (none: all). Raises InvalidInputError."""
        kinds, events = event_kinds(asked.kind), self.world.events
        _check_id(asked.since)
        if asked.limit is not None:
            _check_limit(asked.limit, EVENTS_MOST)
        if last_event_id is not None:
            return last_event_id, kinds
        if asked.since is not None:
            return asked.since, kinds
        return events.start_of(asked.limit or 0, kinds), kinds

    async def audit(self, asked: schemas.AuditQuery | None = None) -> list[schemas.AuditView]:
        """The last calls that changed or revealed something, the newest first. Raises InvalidInputError."""
        asked = asked or schemas.AuditQuery()
        _check_limit(asked.limit, AUDIT_MOST)
        _check_id(asked.before)
        since = 0.0
        if asked.within is not None and (seconds := parse_duration(asked.within)):
            since = self.world.wall() - seconds
        found = await self.world.store.audit(
            asked.limit, verb=asked.verb.strip(), user=asked.user, since=since, before=asked.before
        )
        return [
            schemas.AuditView(
                id=entry.id,
                at=entry.at,
                uid=entry.uid,
                pid=entry.pid,
                user=entry.user,
                verb=entry.verb,
                target=entry.target,
                outcome=entry.outcome,
            )
            for entry in found
        ]

    async def purge(self) -> schemas.Purged:
        """Remove every container and network of ours and all state, then ask the daemon to stop. Other things are left
        alone.

        Raises the first failure; then the state is still there and another purge goes on from it.
        """
        world, rules = self.world, self.world.loop.rules
        await world.seen()
        intent = world.intent
        networks = sorted(n.name for n in world.state.networks if is_ours(n, rules))
        try:
            if world.rollouts is not None:
                await world.rollouts.remove_all()
            await remove_containers(world)
            await self._remove_networks()
            await self._forget()
        except SidegateError:
            if world.rollouts is not None:
                world.rollouts.resume()
            raise
        world.stop()
        return schemas.Purged(
            networks=networks,
            connections=len(intent.connections),
            externals=len(intent.externals),
            variables=sum(map(len, intent.env.values())),
            kept_volumes=sorted(own.volume for own in intent.own_databases.values()),
        )

    async def _forget(self) -> None:
        """What is still remembered is made again: a daemon that wants nothing would serve nobody."""
        try:
            await self.world.store.purge()
        except StoreError as error:
            self.world.loop.resume()
            fault = str(error).removesuffix(": nothing was changed")
            raise StoreError(
                f"{fault}: what is remembered was not removed, so its networks are made again: ask again once that is "
                "mended"
            ) from None

    async def _remove_networks(self) -> None:
        try:
            passed = await self.world.loop.purge()
        except TimeoutError:
            raise SidegateError("removing everything takes long: it goes on; see `sidegate status`") from None
        if not passed.engine_up:
            raise EngineUnavailableError(
                f"networks are still there: {passed.engine_fault}; they go when the engine is back: ask for the purge "
                "again then"
            )
        if failure := next((f for f in passed.failures if f.action.essential), None):
            raise SidegateError(f"not everything could be removed: {failure}; each pass tries again, ask again too")

    async def _engine_version(self) -> str | None:
        try:
            async with asyncio.timeout(VERSION_SECONDS):
                return await self.world.engine.version()
        except (SidegateError, TimeoutError):
            return None

    def _forwarder(self) -> schemas.ForwarderView:
        setting, kernel = self.world.loop.rules.forwarder, self.world.kernel
        fault = None
        if setting != "userspace":
            fault = (kernel.fault or None) if kernel else "this daemon has no kernel forwarder"
        carrier = "userspace" if fault or setting == "userspace" else "kernel"
        return schemas.ForwarderView(setting=setting, carrier=carrier, reason=fault)

    def _listening(self) -> schemas.ListeningView:
        world, presented = self.world, self.world.loop.last.desired.certificates
        return schemas.ListeningView(
            http_port=world.http_port,
            https_port=world.https_port or None,
            base_domain=world.loop.rules.base_domain,
            certificates=len(presented.presented.pairs) if presented else 0,
        )

    def pool(self) -> schemas.PoolView:
        """How much of the pool networks use."""
        rules = self.world.loop.rules
        total = 1 << (rules.subnet_prefix - rules.pool.prefixlen)
        used = 0
        for subnet in (s for network in self.world.state.networks for s in network.ipv4):
            if subnet.overlaps(rules.pool):
                used += 1 << max(0, rules.subnet_prefix - max(subnet.prefixlen, rules.pool.prefixlen))
        return schemas.PoolView(cidr=str(rules.pool), in_use=min(used, total), total=total)


def event_kinds(words: str) -> frozenset[str]:
    """The kinds that somebody asked for, "app" being all about apps; empty: every kind. Raises InvalidInputError."""
    found: set[str] = set()
    for word in filter(None, (part.strip() for part in words.split(","))):
        meant = {kind for kind in KINDS if kind == word or kind.startswith(f"{word}.")}
        if not meant:
            known = sorted({*KINDS, *(kind.partition(".")[0] for kind in KINDS)})
            close = difflib.get_close_matches(word, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(KINDS)}"
            raise InvalidInputError(f"there is no kind of event {word!r}: {hint}")
        found |= meant
    return frozenset(found)


def _check_limit(limit: int, most: int) -> None:
    if not 1 <= limit <= most:
        raise InvalidInputError(f"limit {limit} is not between 1 and {most}")


def _check_id(given: int | None) -> None:
    if given is not None and not 0 <= given <= ID_MOST:
        raise InvalidInputError(f"{given} is no id: take one from an earlier answer")
