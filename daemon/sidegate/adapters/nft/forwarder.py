"""The kernel forwarder of one daemon: what should be forwarded, what is, and the end of sessions.

Owns the nftables table `sidegate-<instance>` and the accepts with its comment in DOCKER-USER, and touches nothing else.
Which external connection the kernel carries, and when it is cut, is the reconciler's to say.

The table works on a lease, so that a daemon which dies takes the way in with it: LEASE_SECONDS after the last `renew`
new sessions meet the local stack as if nothing were forwarded. Those that are open go on in the kernel until the next
start, which takes them over or cuts them.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from sidegate.adapters.nft.commands import Commands
from sidegate.adapters.nft.conntrack import Conntrack, Flow, keep_times
from sidegate.adapters.nft.firewall import Firewall
from sidegate.adapters.nft.rules import FAMILY, LEASE_SECONDS, Listing, Table, read_counts, read_listing
from sidegate.adapters.nft.sessions import Sessions, as_session, is_live, of_port
from sidegate.core.gates import KernelForward, KernelSession
from sidegate.errors import HostToolError

TABLES = "sidegate-"


class KernelForwarder:
    """`instance` names the table, so that two daemons on one host keep one each; `ports` are the first and the last
    public port; `lease` is in seconds; `unusable` says why it cannot be used, where that is known from the start.
    Calls that change something wait for each other. All raise HostToolError.
    """

    def __init__(
        self,
        instance: str,
        ports: tuple[int, int],
        *,
        commands: Commands | None = None,
        conntrack: Conntrack | None = None,
        lease: int = LEASE_SECONDS,
        unusable: str = "",
    ) -> None:
        self._unusable = unusable
        self._commands = commands or Commands()
        self._ports = ports
        self._table = Table(f"{TABLES}{instance}", lease)
        self._firewall = Firewall(self._commands, instance, ports)
        self._sessions = Sessions(self._commands, conntrack or Conntrack())
        self._applied: dict[int, KernelForward] = {}
        self._listed: Listing | None = None  # the table as it was when that was applied
        self._turn = asyncio.Lock()

    async def usable(self) -> str:
        """Why this host's kernel cannot or should not forward; empty when it can. Changes nothing, never raises.

        Worth asking at each pass, since firewalls come and go: about 20 ms.
        """
        return self._unusable or await self._firewall.fault(TABLES)

    async def observe(self) -> Mapping[int, KernelForward]:
        """What works now, by public port: what was applied, less what somebody has since removed or edited.

        Empty in a daemon that has applied nothing yet, whatever an earlier one left: the first `apply` sees to that.
        """
        async with self._turn:
            accepted = not self._applied or await self._firewall.accepts(self._applied)
            return self._intact(await self._list()) if accepted else {}

    async def apply(self, wanted: Mapping[int, KernelForward]) -> None:
        """Forward exactly `wanted`; returns when the kernel does. Nothing to do costs a look.

        One transaction: a port never closes while it changes, and sessions go on, of closed ports too: see `cut`.
        With the last port the table goes at once; the accepts go with the next `cut`, `forget` or `apply` that finds
        no session left. Keep the userspace listener of a port open before and while it is here.
        """
        async with self._turn:
            listed = await self._prepare(wanted)
            if wanted and not self._applied:
                keep_times()
            kept = self._intact(listed)
            if not wanted:
                commands = self._table.drop() if self._applied or listed is not None else []
            elif not self._applied:
                commands = self._table.create(wanted.values())
            elif kept.keys() != self._applied.keys():
                commands = self._table.rebuild(wanted.values())
            else:
                commands = self._table.change(kept, wanted)
            if commands:
                try:
                    await self._commands.change_tables(commands)
                except HostToolError:  # an earlier daemon's is there, or somebody has edited ours since we looked
                    if not wanted:
                        raise
                    await self._commands.change_tables(self._table.rebuild(wanted.values()))
                self._listed = await self._list() if wanted else None
            self._applied = dict(wanted)
            if not commands:
                await self._tidy()

    async def renew(self) -> None:
        """Prolong the lease of what was applied; of nothing, nothing. Raises where what it rests on is gone: `apply`
        puts that back. About 8 ms."""
        async with self._turn:
            if not self._applied:
                return
            if not await self._firewall.accepts(self._applied):
                raise HostToolError("the accepts in DOCKER-USER are not as they were put")
            await self._commands.change_tables(self._table.renew())

    async def sessions(self, port: int) -> tuple[KernelSession, ...]:
        """Sessions through a public port that the kernel carries."""
        return tuple(as_session(flow) for flow in of_port(await self._sessions.flows(), port) if is_live(flow))

    async def carried(self) -> Mapping[int, int]:
        """Public port -> sessions that the kernel carries, of any port that is or was ours: one walk through its table,
        about 10 ms."""
        low, high = self._ports
        flows = await self._sessions.flows()
        return Counter(f.destination[1] for f in flows if is_live(f) and low <= f.destination[1] <= high)

    async def counts(self) -> Mapping[int, int]:
        """Public port -> how many connections it has taken in, since it was opened or changed. About 5 ms."""
        return read_counts(await self._commands.list_table(FAMILY, self._table.name) or ())

    async def cut(self, port: int, pid: int, addresses: Collection[str] | None = None) -> tuple[KernelSession, ...]:
        """End sessions through a port, or those of some client addresses (or single ones, `address:port`), at both
        ends; returns those that there were.

        Close or change the port first. `pid` is a process of the database (0: it does not run): its sockets are
        destroyed in its network namespace. Raises HostToolError where that cannot be entered, and then nothing was
        cut: have the database engine KILL those of `sessions`, then `forget`.
        """
        ended, left = await self._sessions.cut(port, pid, addresses)
        async with self._turn:
            await self._tidy(left)
        return tuple(map(as_session, ended))

    async def forget(self, port: int, addresses: Collection[str] | None = None) -> None:
        """Delete the tracked flows of a port: of sessions that the database has ended by itself."""
        await self._sessions.forget(of_port(await self._sessions.flows(), port, addresses))
        async with self._turn:
            await self._tidy()

    async def remove(self) -> None:
        """Take away all that was added, whichever daemon of this instance did. Sessions should be cut before."""
        async with self._turn:
            await self._commands.change_tables(self._table.drop())
            self._applied, self._listed = {}, None
            await self._firewall.accept(())

    # --- with the turn --------------------

    async def _prepare(self, wanted: Mapping[int, KernelForward]) -> Listing | None:
        """What there is, as far as it matters, and the accepts: they come before the table, or the first client would
        find itself forwarded and then dropped."""
        if wanted:
            await self._firewall.accept(wanted)
        return await self._list() if bool(wanted) == bool(self._applied) else None

    def _intact(self, listed: Listing | None) -> dict[int, KernelForward]:
        """What was applied, as far as the table still has it; nothing once the parts that all share were touched."""
        known = self._listed
        if listed is None or known is None or listed.base != known.base or listed.ports.keys() - known.ports.keys():
            return {}
        return {port: fw for port, fw in self._applied.items() if listed.ports.get(port, "") == known.ports.get(port)}

    async def _list(self) -> Listing | None:
        objects = await self._commands.list_table(FAMILY, self._table.name)
        return None if objects is None else read_listing(objects)

    async def _tidy(self, flows: Iterable[Flow] | None = None) -> None:
        """The accepts go after the last session: the RST to a client that is cut needs them to pass."""
        low, high = self._ports
        if self._applied or (flows is None and await self._firewall.accepts(())):
            return
        left = await self._sessions.flows() if flows is None else flows
        if not any(is_live(flow) and low <= flow.destination[1] <= high for flow in left):
            await self._firewall.accept(())
