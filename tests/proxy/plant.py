"""A TCP forwarder in this process, on a real port."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from proxy.wire import Client, until
from sidegate.core.gates import Gate
from sidegate.core.routes import DatabaseTarget, Routes
from sidegate.core.sessions import Cut, Listening
from sidegate.proxy.gateway import Gateway
from sidegate.proxy.limits import Limits
from sidegate.proxy.listener import Listener
from sidegate.proxy.ports import bind_group
from sidegate.proxy.refusals import Refusals
from sidegate.proxy.tcp import Forwarder


class Plant:
    """A forwarder named db that listens on `port` and can be pointed somewhere."""

    def __init__(self, forwarder: Forwarder, port: int, gateway: Gateway, refusals: Refusals) -> None:
        self.forwarder = forwarder
        self.port = port
        self._gateway = gateway
        self._refusals = refusals

    def point_at(self, port: int | None) -> None:
        target = DatabaseTarget("127.0.0.1", port) if port else DatabaseTarget()
        self._gateway.publish(Routes(databases={"db": target}))

    def admit(self, *, kernel: bool = False, **terms: Any) -> Cut:
        return self.forwarder.admit(Listening(Gate(self.port, **terms), kernel))

    async def client(self, source: str = "127.0.0.1", target: str = "") -> Client:
        target = target or ("::1" if ":" in source else "127.0.0.1")
        return Client(*await asyncio.open_connection(target, self.port, local_addr=(source, 0)))

    async def refused(self, source: str = "127.0.0.1", target: str = "") -> None:
        """A client from `source` is reset, and has read nothing."""
        with pytest.raises(ConnectionResetError):
            async with await self.client(source, target) as client:
                await client.rest()

    def reasons(self) -> dict[str, int]:
        """Why clients were refused, since this was asked last."""
        return {reason: count for told in self._refusals.take() for reason, count in told.reasons.items()}


@contextlib.asynccontextmanager
async def forwarding(
    port: int | None, *, kernel: bool = False, address: str = "", connect: float = 1.0, **terms: Any
) -> AsyncIterator[Plant]:
    errors: list[BaseException] = []
    async with asyncio.TaskGroup() as tasks:
        gateway = Gateway(Limits(), tasks, errors.append)
        (sock,) = bind_group(0, 1, address)
        public = sock.getsockname()[1]
        refusals = Refusals()
        forwarder = Forwarder(
            "db",
            Listening(Gate(public, **terms), kernel),
            target=lambda: gateway.table.routes.databases.get("db"),
            spawn=gateway.spawn,
            connect=connect,
            refusals=refusals,
        )
        plant = Plant(forwarder, public, gateway, refusals)
        listener = Listener(sock, forwarder.accepted)
        plant.point_at(port)
        try:
            yield plant
        finally:
            listener.close()
            forwarder.close()
            await until(lambda: not forwarder.sessions())
    assert not errors


def uplink() -> str:
    """An address of this machine that is not loopback; empty where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return ""


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
