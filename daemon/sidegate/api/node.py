"""The verbs of the daemon itself: status, audit, purge."""

import asyncio
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.own_databases import remove_containers
from sidegate.api.stale import stale_apps
from sidegate.api.world import World
from sidegate.core.desired import is_ours
from sidegate.errors import EngineUnavailableError, InvalidInputError, SidegateError

VERSION_SECONDS = 2.0
AUDIT_MOST = 1000


@dataclass(frozen=True, slots=True)
class NodeVerbs:
    """`started` by the world's clock."""

    world: World
    started: float

    async def status(self) -> schemas.Status:
        """How everything is, without waiting for anything but the engine's version (2 s)."""
        world, last = self.world, self.world.loop.last
        workers = world.data_plane.workers()
        return schemas.Status(
            version=world.version,
            uptime=round(world.clock() - self.started, 3),
            ready=bool(last.finished and world.data_plane.published() and any(w.state == "serving" for w in workers)),
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
            pool=self._pool(),
            problems=world.problems(),
            held=dict(world.intent.modes),
            forwarder=self._forwarder(),
        )

    async def audit(self, limit: int = 50) -> list[schemas.AuditView]:
        """The last calls that changed or revealed something, the newest first. Raises InvalidInputError."""
        if not 1 <= limit <= AUDIT_MOST:
            raise InvalidInputError(f"limit {limit} is not between 1 and {AUDIT_MOST}")
        return [
            schemas.AuditView(
                at=entry.at,
                uid=entry.uid,
                pid=entry.pid,
                user=entry.user,
                verb=entry.verb,
                target=entry.target,
                outcome=entry.outcome,
            )
            for entry in await self.world.store.audit(limit)
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
            await world.store.purge()
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

    async def _remove_networks(self) -> None:
        try:
            passed = await self.world.loop.purge()
        except TimeoutError:
            raise SidegateError("removing everything takes long: it goes on; see `sidegate status`") from None
        if not passed.engine_up:
            raise EngineUnavailableError(
                f"networks are still there, and the Docker engine does not answer: {passed.engine_fault}; "
                "they go when it is back: ask for the purge again then"
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

    def _pool(self) -> schemas.PoolView:
        rules = self.world.loop.rules
        total = 1 << (rules.subnet_prefix - rules.pool.prefixlen)
        used = 0
        for subnet in (s for network in self.world.state.networks for s in network.ipv4):
            if subnet.overlaps(rules.pool):
                used += 1 << max(0, rules.subnet_prefix - max(subnet.prefixlen, rules.pool.prefixlen))
        return schemas.PoolView(cidr=str(rules.pool), in_use=min(used, total), total=total)
