"""Who may come in through a forwarder, on real sockets: lists, limits, terms that change while it is open."""

import asyncio
import contextlib
from typing import Any

import pytest

from proxy.plant import Plant, echo, forwarding, uplink
from proxy.wire import DEADLINE, Client, backend, until
from sidegate.core.gates import OVER_A_LIMIT, OVER_THE_RATE, Entry, Gate
from sidegate.proxy.address_limits import AddressLimits

ONE, OTHER = "127.0.0.1", "127.0.0.2"


class Database:
    """An echo that counts who reaches it."""

    def __init__(self) -> None:
        self.reached = 0
        self.lost = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached += 1
        try:
            await echo(reader, writer)
        except ConnectionResetError:
            self.lost += 1


def entries(*cidrs: str) -> tuple[Entry, ...]:
    return tuple(Entry(cidr) for cidr in cidrs)


async def works(client: Client) -> None:
    client.writer.write(b"ping")
    assert await client.exactly(4) == b"ping"


async def is_cut(client: Client) -> None:
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_somebody_who_is_not_on_the_list_never_reaches_the_database_and_is_counted_with_the_reason() -> None:
    database = Database()
    async with (
        backend(database) as port,
        forwarding(port, allow=entries("127.0.0.0/30"), deny=(Entry("127.0.0.2/32", "the old office"),)) as plant,
    ):
        async with await plant.client(ONE) as client:
            await works(client)
        for _ in range(3):
            await plant.refused(OTHER)
        await plant.refused("127.0.0.9")
        await plant.refused("::1")
        assert plant.reasons() == {"denied by 127.0.0.2/32 (the old office)": 3, "not on the allow list": 2}
        assert database.reached == 1


async def test_both_families_come_in_by_their_own_entries_on_one_dual_stack_socket() -> None:
    async with backend(Database()) as port, forwarding(port, allow=entries("::1/128", "127.0.0.1/32")) as plant:
        for source in (ONE, "::1"):
            async with await plant.client(source) as client:
                await works(client)
                (session,) = plant.forwarder.sessions()
                assert session.client.startswith("[::1]:" if source == "::1" else "127.0.0.1:")
            await until(lambda: plant.forwarder.count == 0)
        await plant.refused(OTHER)


@pytest.mark.skipif(not uplink(), reason="this machine has no address but loopback")
async def test_a_local_gate_lets_loopback_in_and_nobody_else() -> None:
    database = Database()
    async with backend(database) as port, forwarding(port, local=True) as plant:
        await plant.refused(uplink(), uplink())
        assert plant.reasons() == {"only clients on this machine's loopback may come in": 1}
        for source in (OTHER, "::1"):
            async with await plant.client(source) as client:
                await works(client)
        assert database.reached == 2


async def test_other_terms_cut_those_they_do_not_admit_and_nobody_else() -> None:
    database = Database()
    async with (
        backend(database) as port,
        forwarding(port) as plant,
        await plant.client(ONE) as stays,
        await plant.client(OTHER) as goes,
        await plant.client("::1") as goes_too,
    ):
        for client in (stays, goes, goes_too):
            await works(client)
        assert plant.admit(allow=entries("127.0.0.1/32")).count == 2
        await is_cut(goes)
        await is_cut(goes_too)
        await until(lambda: database.lost == 2)
        await works(stays)
        await plant.refused(OTHER)
        assert plant.admit(allow=entries("127.0.0.0/8")).count == 0
        await works(stays)
        async with await plant.client(OTHER) as back:
            await works(back)


async def test_terms_that_change_under_load_never_let_a_stranger_in() -> None:
    database = Database()
    stop = asyncio.Event()

    async def hammer(plant: Plant, source: str) -> None:
        while not stop.is_set():
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                async with await plant.client(source) as client:
                    await works(client)

    async def reached(port: int) -> int:
        """How many reached the database, those included that still waited to be accepted when they were cut."""
        before = database.reached
        async with Client(*await asyncio.open_connection("127.0.0.1", port)) as last:
            await works(last)
        assert database.reached > before
        return database.reached

    async with (
        backend(database) as port,
        forwarding(port) as plant,
        await plant.client("127.0.0.3") as stays,
        asyncio.TaskGroup() as tasks,
    ):
        for source in (ONE, OTHER, ONE, OTHER):
            tasks.create_task(hammer(plant, source))
        for _ in range(10):
            before = database.reached
            plant.admit(allow=entries("127.0.0.3/32"))
            await until(lambda: plant.forwarder.count == 1)
            already = await reached(port)
            await plant.refused(ONE)
            assert await reached(port) == already + 1
            await works(stays)
            plant.admit()
            await until(lambda before=before: database.reached > before + 4)  # type: ignore[misc]
        stop.set()


async def test_an_address_has_so_many_sessions_and_gets_a_place_back() -> None:
    database = Database()
    async with backend(database) as port, forwarding(port, max_sessions=2) as plant:
        async with await plant.client(ONE) as first, await plant.client(OTHER) as other:
            async with await plant.client(ONE) as second:
                for client in (first, second, other):
                    await works(client)
                await plant.refused(ONE)
                assert plant.reasons() == {OVER_A_LIMIT.reason: 1}
            await until(lambda: plant.forwarder.count == 2)
            async with await plant.client(ONE) as again:
                await works(again)
                assert plant.admit(max_sessions=1).count == 0  # who is over a new limit keeps what he has
                await works(again)
                await plant.refused(ONE)
                await plant.refused(OTHER)
        await until(lambda: plant.forwarder.count == 0)
        async with await plant.client(ONE) as client:
            await works(client)
        assert database.reached == 5


async def test_an_address_has_so_many_new_sessions_per_second() -> None:
    database = Database()
    async with backend(database) as port, forwarding(port, max_new=1) as plant:
        async with await plant.client(ONE) as client:
            await works(client)
        refused = 0
        async with asyncio.timeout(DEADLINE):
            while database.reached < 2:
                with contextlib.suppress(ConnectionResetError):
                    async with await plant.client(ONE) as client:
                        await works(client)
                        continue
                refused += 1
        assert plant.reasons() == ({OVER_THE_RATE.reason: refused} if refused else {})


def test_the_rate_is_a_bucket_of_one_second_that_fills_evenly() -> None:
    limits = AddressLimits(Gate(1, max_new=10))
    assert [limits.enter("192.0.2.1", 5.0).allowed for _ in range(12)] == [True] * 10 + [False] * 2
    assert limits.enter("192.0.2.2", 5.0).allowed
    assert not limits.enter("192.0.2.1", 5.09).allowed
    assert limits.enter("192.0.2.1", 5.11).allowed
    assert not limits.enter("192.0.2.1", 5.11).allowed
    limits.sweep(6.2)
    assert [limits.enter("192.0.2.1", 6.2).allowed for _ in range(11)] == [True] * 10 + [False]


def test_the_limits_of_an_ipv6_client_are_of_its_64() -> None:
    limits = AddressLimits(Gate(1, max_sessions=1))
    assert limits.enter("2001:db8::1", 0).allowed
    assert limits.enter("2001:db8::2", 0).reason == OVER_A_LIMIT.reason
    assert limits.enter("2001:db8:0:1::1", 0).allowed
    limits.leave("2001:db8::1")
    assert limits.enter("2001:db8::2", 0).allowed


@pytest.mark.skipif(not uplink(), reason="this machine has no address but loopback")
@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        ({"max_sessions": 5}, OVER_A_LIMIT.reason),
        ({"max_new": 5}, OVER_THE_RATE.reason),
        ({"max_sessions": 5, "max_new": 5}, OVER_A_LIMIT.reason),
    ],
)
async def test_whom_the_kernel_would_carry_comes_only_when_over_its_limit(terms: dict[str, Any], reason: str) -> None:
    database = Database()
    async with backend(database) as port, forwarding(port, kernel=True, **terms) as plant:
        await plant.refused(uplink(), ONE)
        assert plant.reasons() == {reason: 1}
        for source, target in ((ONE, ONE), ("::1", "::1"), (uplink(), uplink())):
            async with await plant.client(source, target) as client:
                await works(client)
        assert database.reached == 3


@pytest.mark.skipif(not uplink(), reason="this machine has no address but loopback")
async def test_without_a_limit_the_kernel_refuses_nobody_so_that_one_who_comes_all_the_same_is_served() -> None:
    async with backend(Database()) as port, forwarding(port, kernel=True, deny=entries("127.0.0.2/32")) as plant:
        async with await plant.client(uplink(), ONE) as client:
            await works(client)
        await plant.refused(OTHER)


async def test_a_kick_ends_an_address_or_one_session_of_it() -> None:
    async with (
        backend(Database()) as port,
        forwarding(port) as plant,
        await plant.client(ONE) as first,
        await plant.client(ONE) as second,
        await plant.client(OTHER) as other,
        await plant.client("::1") as sixth,
    ):
        for client in (first, second, other, sixth):
            await works(client)
        port_of_first = first.writer.get_extra_info("sockname")[1]
        assert plant.forwarder.kick(f"127.0.0.1:{port_of_first}").count == 1
        await is_cut(first)
        assert plant.forwarder.kick(f"127.0.0.1:{port_of_first}").count == 0
        assert plant.forwarder.kick("::ffff:127.0.0.1").count == 1
        await is_cut(second)
        assert plant.forwarder.kick("0:0:0:0:0:0:0:1").count == 1
        await is_cut(sixth)
        assert plant.forwarder.kick("127.0.0.3").count == plant.forwarder.kick("nobody").count == 0
        await works(other)
