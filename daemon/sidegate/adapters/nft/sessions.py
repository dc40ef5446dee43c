"""Sessions that the kernel carries, and their end at both ends. Destroys sockets and flows of such sessions only."""

import asyncio
from collections.abc import Collection, Sequence

from sidegate.adapters.nft.commands import Commands, GoneError, enter
from sidegate.adapters.nft.conntrack import Conntrack, Flow
from sidegate.adapters.nft.provoke import provoke
from sidegate.core.gates import KernelSession
from sidegate.core.model import DATABASE_PORT
from sidegate.errors import HostToolError

ATTEMPTS = 5
RESET_SECONDS, LOOK_SECONDS = 0.1, 0.005
"""How long is waited for the database's RSTs at most, and how often they are looked for."""

SOCKETS_AT_ONCE = 200
"""A filter of `ss` compiles to kernel bytecode of at most 64 KiB."""

ENDED = "TIME_WAIT"
LINGERING = (ENDED, "CLOSE")
"""A connection that both ends have ended, or that was reset, is tracked for a while yet."""


class Sessions:
    """Forwarded sessions of every public port; one of somebody else's rules that lead to a 3306 looks the same, so
    only ports that are ours may be asked for."""

    def __init__(self, commands: Commands, conntrack: Conntrack) -> None:
        self._commands = commands
        self._conntrack = conntrack

    async def flows(self) -> list[Flow]:
        """Translated flows to a database port, live or lingering. Raises HostToolError."""
        found = await asyncio.to_thread(self._conntrack.answered_from, DATABASE_PORT)
        return [flow for flow in found if flow.answer_source[0] != flow.destination[0]]

    async def cut(self, port: int, pid: int, addresses: Collection[str] | None) -> tuple[list[Flow], list[Flow]]:
        """See `KernelForwarder.cut`; also returns the flows that are left, of all ports."""
        first: list[Flow] | None = None
        for _ in range(ATTEMPTS):
            everything = await self.flows()
            found = of_port(everything, port, addresses)
            live = [flow for flow in found if is_live(flow)]
            first = live if first is None else first
            if not found:
                return first, everything
            await self._destroy(pid, live)
            await self._reset_passed({flow.identity for flow in live})
            await self.forget(found)
            # Those too whose socket at the database is gone: the kernel has seen its RST, the client maybe not.
            provoke(flow for flow in found if flow.state != ENDED)
        if outlived := {flow.identity for flow in first or ()} & {flow.identity for flow in live}:
            raise HostToolError(
                f"{len(outlived)} sessions through port {port} outlive `ss -K`: "
                "the kernel needs CONFIG_INET_DIAG_DESTROY (every Debian kernel has it)"
            )
        return first or [], everything  # what is there now came in later, through a port that is open

    async def _reset_passed(self, flows: Collection[bytes]) -> None:
        """Wait until the kernel has seen the RSTs, since without its flow each would be dropped; of a client that has
        not acknowledged all it was sent the kernel does not say so."""
        for _ in range(round(RESET_SECONDS / LOOK_SECONDS)):
            if not flows or not any(flow.identity in flows and is_live(flow) for flow in await self.flows()):
                return
            await asyncio.sleep(LOOK_SECONDS)

    async def forget(self, flows: Sequence[Flow]) -> None:
        if flows:
            await asyncio.to_thread(self._conntrack.delete, flows)

    async def _destroy(self, pid: int, flows: Sequence[Flow]) -> None:
        """The database's sockets, while the kernel still translates: the RST that each sends reaches its client then. A
        database that is gone has closed them itself."""
        if not flows:
            return
        try:
            with self._commands.network_of(pid) as namespace:
                for start in range(0, len(flows), SOCKETS_AT_ONCE):
                    peers = _peers(flows[start : start + SOCKETS_AT_ONCE])
                    await self._commands.output(
                        *enter(namespace), "ss", "-H", "-n", "-t", "-K", "state", "connected", *peers, keep=namespace
                    )
        except GoneError:
            return


def of_port(flows: Sequence[Flow], port: int, addresses: Collection[str] | None = None) -> list[Flow]:
    """Flows through a public port; of some clients, each an address or `address:port`."""
    ours = [flow for flow in flows if flow.destination[1] == port]
    if addresses is None:
        return ours
    return [f for f in ours if f.source[0] in addresses or f"{f.source[0]}:{f.source[1]}" in addresses]


def is_live(flow: Flow) -> bool:
    return flow.state not in LINGERING


def as_session(flow: Flow) -> KernelSession:
    return KernelSession(
        flow.destination[1],
        *flow.source,
        flow.answer_source[0],
        *flow.answer_destination,
        flow.state,
        flow.started,
        flow.bytes_sent,
        flow.bytes_received,
    )


def _peers(flows: Sequence[Flow]) -> list[str]:
    """A filter of `ss` for the database's ends: the kernel folds ::ffff:a.b.c.d when it compares."""
    words = ["("]
    for flow in flows:
        address, port = flow.answer_destination
        words += ["dst", f"{address}:{port}", "or"]
    return [*words[:-1], ")"]
