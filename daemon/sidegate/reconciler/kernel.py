"""The kernel's part in external connections: one port at a time for the plan, all at once for the kernel."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from ipaddress import IPv4Network

import structlog

from sidegate.core.forwarding import Kernel
from sidegate.core.gates import AccessList, Gate, KernelForward, KernelSession
from sidegate.core.model import Intent
from sidegate.core.sessions import Cut
from sidegate.errors import HostToolError, SidegateError
from sidegate.reconciler.world import Databases, KernelForwarding

RENEWAL_SECONDS = 3.0
DOUBTS, DOUBT_SECONDS = 8, 0.25

log = structlog.get_logger("sidegate.kernel")


class KernelPorts:
    """The kernel forwarder as the reconciler uses it. All but `look` and `observe` raise HostToolError.

    What is asked while an earlier change is under way goes in together with the next: a hundred ports at a start take
    a dozen transactions.
    """

    def __init__(self, forwarder: KernelForwarding, databases: Databases, *, renewal: float = RENEWAL_SECONDS) -> None:
        """`renewal`: seconds between two renewals of the lease, which lasts 10 s (Table.renew)."""
        self.fault = "not asked yet"
        """Why the kernel cannot be used here, as of the last look; empty: it can."""
        self._seen_once = False
        self.trouble = ""
        """Why what it forwards could not be looked at, the last time; empty: it could."""
        self._forwarder = forwarder
        self._databases = databases
        self._renewal = renewal
        self._present: Mapping[int, KernelForward] = {}
        self._pending: dict[int, KernelForward | None] = {}
        self._outcomes: asyncio.Future[None] | None = None
        self._turn = asyncio.Lock()
        self._ports: set[int] = set()
        self._counted: dict[int, int] = {}
        self._last: Mapping[int, int] = {}
        self._came: dict[int, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self.begun = False
        """Whether nothing of an earlier daemon is left."""

    async def look(self, *, doubting: bool = True) -> str:
        """Ask whether it can be used. A fault that is new is asked about again and again for two seconds, unless
        `doubting` is False: Docker takes its rules out of the FORWARD chain and puts them back at each change, which
        shall part nobody from his session, also where networks come and go all the time."""
        fault = await self._forwarder.usable()
        if doubting and fault and (fault != self.fault or self._seen_once):
            for _ in range(DOUBTS):
                await asyncio.sleep(DOUBT_SECONDS)
                if not (fault := await self._forwarder.usable()):
                    break
        if fault != self.fault:
            log.info("kernel forwarder", usable=not fault, fault=fault)
        self.fault, self._seen_once = fault, bool(fault) and not doubting
        return fault

    async def begin(self, ports: Iterable[int]) -> None:
        """Stop what an earlier daemon may have left; its sessions through `ports` are to be cut, or taken over."""
        await self.look(doubting=False)  # a start waits for nothing
        try:
            await self._forwarder.apply({})
            self._ports |= {port for port in ports if await self._forwarder.sessions(port)}
            self.begun = True
        except HostToolError as error:
            log.info("nothing of an earlier daemon was looked for", error=str(error))

    async def end(self) -> None:
        """No look is under way after this."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait((self._looking,))

    def wanted(self, intent: Intent, setting: str) -> bool:
        """Whether an external connection is to be the kernel's, if it can be."""
        return any(e.enabled and (e.forwarder or setting) != "userspace" for e in intent.externals.values())

    def look_soon(self, wake: Callable[[], None]) -> None:
        """Look beside whatever else is done, and `wake` if that has changed: a pass does not wait for it."""
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_beside(wake), name="look at kernel")

    async def _look_beside(self, wake: Callable[[], None]) -> None:
        before = self.fault
        try:
            if await self.look() != before:
                wake()
        finally:
            self._looking = None

    def known(self) -> Kernel:
        """What it forwards, as of the last look or change."""
        return Kernel(self._present, frozenset(self._ports))

    def carries(self, port: int) -> bool:
        return port in self._present

    async def observe(self) -> Kernel:
        """What it forwards; what it was last, where it cannot be looked at."""
        async with self._turn:
            if self._present:
                try:
                    self._present = await self._forwarder.observe()
                    self.trouble = ""
                except HostToolError as error:
                    if not self.trouble:
                        log.warning("kernel forwarder not observed", error=str(error))
                    self.trouble = str(error)
        return self.known()

    async def keep(self, wake: Callable[[], None]) -> None:
        """Renew the lease on what is forwarded, for as long as we live: until cancelled. Where it cannot be renewed
        something is missing, and `wake` brings the pass that puts it back."""
        said = ""
        while True:
            await asyncio.sleep(self._renewal)
            fault = ""
            if self._present:
                try:
                    await self._forwarder.renew()
                except HostToolError as error:
                    fault = str(error)
                    wake()
            if fault and fault != said:
                log.warning("kernel forwarder not kept", error=fault)
            said = fault

    async def forward(self, port: int, forward: KernelForward) -> None:
        """Carry a port from now on, the others as they are."""
        self._ports.add(port)
        await self._change(port, forward)

    async def stop(self, port: int) -> None:
        """Carry it no longer; its sessions go on until they are cut."""
        await self._change(port, None)

    async def sessions(self, port: int) -> tuple[KernelSession, ...]:
        if port not in self._ports:
            return ()  # listing costs 10 ms: the kernel walks through its whole table
        return await self._forwarder.sessions(port)

    async def used(self, ports: Collection[int]) -> frozenset[int]:
        """Those of `ports` on which somebody is, or has been since they were asked for last."""
        counts = await self._count()
        came = {port for port in ports if counts.get(port, 0) not in (0, self._counted.get(port, 0))}
        self._counted.update({port: counts.get(port, 0) for port in ports})
        return frozenset(came | {port for port in ports if port not in came and await self.sessions(port)})

    async def traffic(self) -> Mapping[int, tuple[int, int]]:
        """Public port -> sessions that are there, and how many came in since this daemon began; a few of those are
        missing where its rules were changed meanwhile. Only ports that are the kernel's, or were."""
        live: Mapping[int, int] = {}
        if self._ports:
            live = await self._forwarder.carried()
            await self._count()
        return {port: (live.get(port, 0), self._came.get(port, 0)) for port in self._ports | self._came.keys()}

    async def _count(self) -> Mapping[int, int]:
        """The kernel's counts, which begin anew whenever a port is changed; `_came` never does."""
        counts = await self._forwarder.counts()
        for port, count in counts.items():
            before = self._last.get(port, 0)
            self._came[port] = self._came.get(port, 0) + (count - before if count >= before else count)
        self._last = counts
        return counts

    async def cut(self, database: str, port: int, pid: int, peer: str, gate: Gate | None = None) -> Cut:
        """End all sessions, or those of clients that `gate` does not admit; see `kick`."""
        if gate is None:
            ended = await self.kick(database, port, pid, peer)
            if port not in self._present:
                self._ports.discard(port)
            return ended
        refused = AccessList(gate).refused({session.client for session in await self.sessions(port)})
        return await self.kick(database, port, pid, peer, refused) if refused else Cut()

    async def kick(
        self, database: str, port: int, pid: int, peer: str, addresses: Collection[str] | None = None
    ) -> Cut:
        """End sessions at both ends, all or of some clients, each an address or `address:port`; returns which, as far
        as the database may still be busy with them.

        Where the database's network namespace cannot be entered its own KILL ends them; all of them are those that
        have one address there, `peer`. Raises SidegateError where that fails too.
        """
        try:
            ended = await self._forwarder.cut(port, pid, addresses)
            return Cut(len(ended), frozenset((session.masked, session.masked_port) for session in ended))
        except HostToolError as error:
            if not peer:
                raise
            log.warning("sessions are killed by the database", database=database, port=port, error=str(error))
        if addresses is None:
            killed = await self._databases.kill_sessions(database, IPv4Network(peer))
        else:
            theirs = (s for s in await self.sessions(port) if {s.client, f"{s.client}:{s.client_port}"} & {*addresses})
            killed = await self._databases.kill_clients(database, {(s.masked, s.masked_port) for s in theirs})
        await self._forwarder.forget(port, addresses)
        return Cut(killed)

    async def remove(self) -> None:
        """Take away everything that is ours."""
        async with self._turn:
            await self._forwarder.remove()
            self._present = {}

    async def _change(self, port: int, forward: KernelForward | None) -> None:
        self._pending[port] = forward
        if self._outcomes is None:
            self._outcomes = asyncio.get_running_loop().create_future()
        mine = self._outcomes
        async with self._turn:
            if mine is self._outcomes:
                pending, self._pending, self._outcomes = self._pending, {}, None
                try:
                    await self._apply(pending)
                except SidegateError as error:
                    mine.set_exception(error)
                except BaseException:
                    mine.cancel()
                    raise
                else:
                    mine.set_result(None)
        await mine

    async def _apply(self, changes: Mapping[int, KernelForward | None]) -> None:
        wanted = dict(self._present)  # as of this pass; what was flushed since is put back with the rest
        for port, forward in changes.items():
            if forward is None:
                wanted.pop(port, None)
            else:
                wanted[port] = forward
        await self._forwarder.apply(wanted)
        self._present = wanted
