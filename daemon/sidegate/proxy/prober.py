"""Active health checks: one worker of all asks every replica of apps that have a health path how it is.

It tells changes only; who acts on them, and how, is the control plane's. No request here is counted as an app's.
"""

import asyncio
import heapq
import itertools
import random
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import cast

from sidegate.core.routes import Policy, Routes, Upstream
from sidegate.proxy.head import RefusedHeadError, parse_response
from sidegate.proxy.verdicts import asked

_AT_ONCE = 64  # probes in flight
_UNKNOWN = 1  # seconds between probes of a replica that has never been well
_SPREAD = 0.002  # seconds between the first probes of replicas that are published together
_LARGEST_HEAD = 65536


class Prober:
    """Probes from `publish` on, as long as `run` does. `tell(id, fault)` hears of each change, fault "": it is well."""

    def __init__(
        self,
        spawn: Callable[[Coroutine[None, None, None], str], asyncio.Task[None]],
        tell: Callable[[str, str], None],
        known: Mapping[str, str],
    ) -> None:
        """`known`: container id -> fault, what a predecessor found."""
        self._spawn = spawn
        self._tell = tell
        self._known = dict(known)
        self._targets: dict[str, _Target] = {}
        self._due: list[tuple[float, int, _Target]] = []
        self._order = itertools.count()
        self._wake = asyncio.Event()
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Prober targets={len(self._targets)} due={len(self._due)}>"

    def publish(self, routes: Routes) -> None:
        """Ask these replicas from now on, and those that are not among them no more."""
        before, self._targets = self._targets, {}
        fresh = 0
        for name, policy, upstream in asked(routes):
            target = before.get(upstream.id)
            if target is None or not target.is_at(upstream):
                target = _Target(upstream, self._known.get(upstream.id))
                self._plan(target, fresh * _SPREAD)
                fresh += 1
            target.app, target.policy = name, policy
            self._targets[upstream.id] = target
        for id_, target in before.items():
            if self._targets.get(id_) is not target and target.probe is not None:
                target.probe.cancel()
        self._known.clear()

    async def run(self) -> None:
        """Probe until cancelled."""
        try:
            while True:
                await self._next()
        finally:
            for target in self._targets.values():
                if target.probe is not None:
                    target.probe.cancel()

    async def _next(self) -> None:
        """Wait until a replica is due and there is room for a probe, and begin it."""
        now = self._loop.time()
        if not self._due or self._due[0][0] > now:
            self._wake.clear()
            try:
                async with asyncio.timeout(self._due[0][0] - now if self._due else None):
                    await self._wake.wait()
            except TimeoutError:
                pass
            return
        await self._room.acquire()
        target = heapq.heappop(self._due)[2]
        if self._targets.get(target.upstream.id) is not target:  # it is gone
            self._room.release()
            return
        target.probe = self._spawn(self._ask(target), "probe")
        target.probe.add_done_callback(lambda _: self._asked(target))

    def _plan(self, target: "_Target", delay: float) -> None:
        heapq.heappush(self._due, (self._loop.time() + delay, next(self._order), target))
        self._wake.set()

    def _asked(self, target: "_Target") -> None:
        self._room.release()
        target.probe = None
        if self._targets.get(target.upstream.id) is target:
            interval = target.policy.health_interval
            if not target.known:
                interval = min(interval, _UNKNOWN)
            # A little to either side, or all that began together would be asked together for ever.
            self._plan(target, interval * random.uniform(0.9, 1.1))  # noqa: S311  # no secret

    async def _ask(self, target: "_Target") -> None:
        fault = await _probe(target.upstream, target.app, target.policy)
        if self._targets.get(target.upstream.id) is target and target.judge(fault):
            self._tell(target.upstream.id, target.fault or "")


class _Target:
    """A replica and what is thought of it. `fault` is None until that is known; `known` once it has been well."""

    __slots__ = ("app", "fault", "known", "policy", "probe", "streak", "upstream")

    def __init__(self, upstream: Upstream, fault: str | None) -> None:
        self.upstream = upstream
        self.app = ""
        self.policy = Policy()
        self.fault = fault
        self.known = fault is not None
        self.streak = 0
        self.probe: asyncio.Task[None] | None = None

    def is_at(self, upstream: Upstream) -> bool:
        return (self.upstream.address, self.upstream.port) == (upstream.address, upstream.port)

    def judge(self, fault: str) -> bool:
        """Take in an answer; whether it changes what is thought.

        The first good answer decides: a replica that starts is asked often and trusted soon. The first bad ones do not:
        it may have served for long, and only the path be new, or wrong.
        """
        before = self.fault
        if not self.known and not fault:
            self.fault, self.known, self.streak = "", True, 0
            return True
        if before is not None and bool(fault) == bool(before):
            self.fault, self.streak = fault, 0
            return before != fault
        self.streak += 1
        if self.streak < (self.policy.health_fall if fault else self.policy.health_rise):
            return False
        self.fault, self.streak = fault, 0
        return True


async def _probe(upstream: Upstream, app: str, policy: Policy) -> str:
    """Ask once; what is wrong, or nothing."""
    loop = asyncio.get_running_loop()
    request = (
        f"GET {policy.health} HTTP/1.1\r\nHost: {app}\r\nUser-Agent: sidegate-health\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n"
    ).encode("latin-1", "replace")
    answer: asyncio.Future[int] = loop.create_future()
    transport: asyncio.BaseTransport | None = None
    try:
        async with asyncio.timeout(policy.health_timeout or None):
            transport, _ = await loop.create_connection(
                lambda: _Probe(request, answer), upstream.address, upstream.port
            )
            status = await answer
    except TimeoutError:
        return f"did not answer within {policy.health_timeout} s"
    except ConnectionRefusedError:
        return "refused the connection"
    except RefusedHeadError:
        return f"{policy.health} answered something that is not HTTP"
    except (ConnectionResetError, BrokenPipeError, EOFError):
        return "closed the connection without an answer"
    except OSError as error:
        return f"cannot be reached: {error.strerror or error}"
    finally:
        answer.cancel()
        if transport is not None:
            cast(asyncio.Transport, transport).abort()
    return "" if 200 <= status < 400 else f"{policy.health} answered {status}"


class _Probe(asyncio.Protocol):
    """Sends a request and reads the head of the response; `answer` is its status, or what went wrong."""

    def __init__(self, request: bytes, answer: asyncio.Future[int]) -> None:
        self._request = request
        self._answer = answer
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._answer.done():
            return
        self._read += data
        try:
            while (end := self._read.find(b"\r\n\r\n") + 4) > 3:
                status = parse_response(self._read[:end]).status
                if status >= 200:
                    self._answer.set_result(status)
                    return
                self._read = self._read[end:]  # an interim response
        except RefusedHeadError as error:
            self._answer.set_exception(error)
            return
        if len(self._read) > _LARGEST_HEAD:
            self._answer.set_exception(RefusedHeadError(HTTPStatus.BAD_GATEWAY, "The head is too large."))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or EOFError())
