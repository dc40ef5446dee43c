"""Forwarders over several real worker processes: the same terms in all of them, whatever becomes of one."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest
import structlog
from structlog.testing import capture_logs

from proxy import plant
from proxy.wire import DEADLINE, Client, backend, until
from sidegate.core.gates import Entry, Gate
from sidegate.core.routes import DatabaseTarget, Routes
from sidegate.core.sessions import Cut, Listening, Session, Usage
from sidegate.proxy.limits import Limits
from sidegate.proxy.supervisor import Supervisor

ONE, OTHER = "127.0.0.1", "127.0.0.2"
NOT_LISTED = "not on the allow list"


class Plane:
    """Workers with a forwarder named db in front of an echo."""

    def __init__(self, supervised: Supervisor) -> None:
        self.supervised = supervised

    @property
    def port(self) -> int:
        return self.supervised.listeners()["db"].gate.port

    async def admit(self, *allow: str, kernel: bool = False, max_sessions: int = 0) -> Cut:
        gate = Gate(self.port, tuple(Entry(cidr) for cidr in allow), max_sessions=max_sessions)
        cut = await self.supervised.open_forwarder("db", gate, kernel)
        assert self.supervised.listeners() == {"db": Listening(gate, kernel)}
        return cut

    async def sessions(self, source: str) -> list[Session]:
        """Those of an address."""
        return [one for one in await self.supervised.sessions("db") if one.client.startswith(f"{source}:")]

    async def client(self, source: str = ONE) -> Client:
        return Client(*await asyncio.open_connection(ONE, self.port, local_addr=(source, 0)))

    async def served(self, source: str = ONE) -> Client:
        """A client whose first word came back."""
        client = await self.client(source)
        await works(client)
        return client

    async def refused(self, source: str = ONE) -> None:
        with pytest.raises(ConnectionResetError):
            async with await self.client(source) as client:
                await client.rest()


@contextlib.asynccontextmanager
async def forwarding(gate: Gate, workers: int = 2) -> AsyncIterator[Plane]:
    identity = 65534 if os.getuid() == 0 else None
    supervised = Supervisor(
        workers=workers,
        http_port=0,
        log=structlog.get_logger(),
        address="127.0.0.1" if not gate.local else "",
        uid=identity,
        gid=identity,
        limits=Limits(drain=DEADLINE),
    )
    async with backend(plant.echo) as port:
        await supervised.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised.run(), name="workers")
            try:
                await supervised.publish(Routes(databases={"db": DatabaseTarget("127.0.0.1", port)}))
                await supervised.open_forwarder("db", gate)
                yield Plane(supervised)
            finally:
                await supervised.stop()


async def works(client: Client) -> None:
    client.writer.write(b"ping")
    assert await client.exactly(4) == b"ping"


async def is_cut(client: Client) -> None:
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_terms_are_swapped_in_every_worker_and_those_they_admit_go_on() -> None:
    async with forwarding(Gate(0)) as plane, contextlib.AsyncExitStack() as clients:
        stay = [await clients.enter_async_context(await plane.served(ONE)) for _ in range(8)]
        go = [await clients.enter_async_context(await plane.served(OTHER)) for _ in range(8)]
        port = plane.port
        gone = await plane.sessions(OTHER)
        assert await plane.admit("127.0.0.1/32") == Cut(8, frozenset((one.masked, one.masked_port) for one in gone))
        assert plane.port == port
        assert await plane.admit("127.0.0.1/32") == Cut()
        for client in go:
            await is_cut(client)
        for client in stay:
            await works(client)
        for _ in range(8):
            await plane.refused(OTHER)
        assert len(await plane.supervised.sessions("db")) == 8


async def test_a_limit_of_sessions_is_exact_over_all_workers_and_comes_and_goes_with_the_terms() -> None:
    async with forwarding(Gate(0, max_sessions=3), workers=3) as plane, contextlib.AsyncExitStack() as clients:
        for source in (ONE, OTHER, "127.0.0.3"):
            for _ in range(3):
                await clients.enter_async_context(await plane.served(source))
            for _ in range(3):
                await plane.refused(source)
        await plane.admit()
        for _ in range(9):
            await clients.enter_async_context(await plane.served(ONE))
        await plane.admit(max_sessions=1)
        for _ in range(4):
            await plane.refused(OTHER)


async def test_a_kick_finds_its_sessions_in_whichever_worker_they_are() -> None:
    async with forwarding(Gate(0)) as plane, contextlib.AsyncExitStack() as clients:
        kicked = [await clients.enter_async_context(await plane.served(OTHER)) for _ in range(8)]
        other = await clients.enter_async_context(await plane.served(ONE))
        first = kicked.pop()
        address, port = first.writer.get_extra_info("sockname")
        (seen,) = [one for one in await plane.sessions(OTHER) if one.client == f"{address}:{port}"]
        cut = await plane.supervised.kick("db", seen.client)
        assert cut == Cut(1, frozenset({(seen.masked, seen.masked_port)}))
        await is_cut(first)
        others = await plane.sessions(OTHER)
        cut = await plane.supervised.kick("db", OTHER)
        assert cut == Cut(7, frozenset((one.masked, one.masked_port) for one in others))
        assert await plane.sessions(OTHER) == []
        for client in kicked:
            await is_cut(client)
        await works(other)
        assert await plane.supervised.kick("none", OTHER) == Cut()


async def test_refused_clients_are_counted_over_all_workers_and_logged_with_address_and_reason() -> None:
    with capture_logs() as logs:
        async with forwarding(Gate(0, (Entry("127.0.0.1/32"),))) as plane:
            for _ in range(20):
                await plane.refused(OTHER)
            await until(lambda: plane.supervised.refusals("db") == {NOT_LISTED: 20})
            pid = plane.supervised.workers()[0].pid
            os.kill(pid, signal.SIGKILL)
            await until(lambda: plane.supervised.workers()[0].pid not in (pid, 0))
            assert plane.supervised.refusals("db") == {NOT_LISTED: 20}
            await plane.supervised.close_forwarder("db")
            assert plane.supervised.refusals("db") == {}
    lines = [line for line in logs if line["event"] == "external connection refused"]
    assert {(line["database"], line["client"], line["reason"]) for line in lines} == {("db", OTHER, NOT_LISTED)}
    assert sum(line["times"] for line in lines) == 20
    assert len(lines) < 20


async def test_a_replacement_goes_by_the_terms_of_now() -> None:
    async with forwarding(Gate(0), workers=1) as plane:
        await plane.admit("127.0.0.1/32", max_sessions=1)
        pid = plane.supervised.workers()[0].pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: plane.supervised.workers()[0].pid not in (pid, 0))
        async with await plane.served(ONE):
            await plane.refused(ONE)
            await plane.refused(OTHER)


@pytest.mark.usefixtures("impatient")
async def test_terms_that_are_swapped_while_a_worker_hangs_hold_in_its_replacement() -> None:
    async with forwarding(Gate(0)) as plane:
        pid = plane.supervised.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        await plane.admit("127.0.0.1/32")
        assert plane.supervised.workers()[0].pid != pid
        for _ in range(8):
            await plane.refused(OTHER)
            async with await plane.served(ONE):
                pass


@pytest.mark.skipif(not plant.uplink(), reason="this machine has no address but loopback")
async def test_who_waits_to_be_accepted_goes_by_the_terms_that_he_came_under() -> None:
    """When a limit is left to the kernel a client who came before that is none whom the kernel turned down."""
    async with forwarding(Gate(0), workers=1) as plane:
        pid = plane.supervised.workers()[0].pid
        os.kill(pid, signal.SIGSTOP)
        async with await plane.client(plant.uplink()) as client:
            admitted = asyncio.create_task(plane.admit(kernel=True, max_sessions=5))
            await asyncio.sleep(0)
            os.kill(pid, signal.SIGCONT)
            await admitted
            await works(client)
        await plane.refused(plant.uplink())


async def test_usage_tells_of_sessions_and_of_how_long_there_was_none() -> None:
    async with forwarding(Gate(0)) as plane:
        assert plane.supervised.usage("none") == Usage(0, 0.0)
        await until(lambda: plane.supervised.usage("db").idle > 0.01)
        async with await plane.served(), await plane.served():
            await until(lambda: plane.supervised.usage("db") == Usage(2, 0.0))
        await until(lambda: plane.supervised.usage("db").sessions == 0)
        before = plane.supervised.usage("db").idle
        await until(lambda: plane.supervised.usage("db").idle > before)
        async with await plane.served(), await plane.served(), await plane.served():
            await until(lambda: plane.supervised.usage("db") == Usage(3, 0.0))
            for worker in plane.supervised.workers():
                os.kill(worker.pid, signal.SIGKILL)
            await until(lambda: plane.supervised.usage("db").sessions == 0)


async def test_another_port_is_another_forwarder_and_the_sessions_of_the_former_are_cut() -> None:
    async with forwarding(Gate(0)) as plane, await plane.served() as client:
        former = plane.port
        async with asyncio.timeout(DEADLINE):
            await plane.supervised.open_forwarder("db", Gate(0))
        assert plane.port != former
        await is_cut(client)
        async with await plane.served():
            pass
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(ONE, former)
