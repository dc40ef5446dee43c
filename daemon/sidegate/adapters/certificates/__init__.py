"""Certificates: those that lie in a directory, and those that the local authority issues for the other names."""

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sidegate.adapters.certificates.authority import Authority, due
from sidegate.adapters.certificates.directory import Directory
from sidegate.core.certificates import DEFAULT_LEAF, Certificate, CertificateState
from sidegate.errors import CertificateError, InvalidInputError, NotFoundError, RefusedError, StoreError

TICKET_KEY_BYTES = 80
TICKET_KEY_SECONDS = 12 * 3600.0
PATIENCE = 0.5
"""Seconds that a pass waits for the authority; it issues the rest meanwhile, and asks for another pass."""

_LOOK = 1.0  # seconds between looks at the directory, more where a look takes long
_IDLE_SHARE = 20

T = TypeVar("T")


class Certificates:
    """Both sources, in threads of their own: one for files, one that signs (10,000 leafs take it seconds)."""

    def __init__(
        self,
        directory: Path,
        authority: Path,
        *,
        base_domain: str,
        managed: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`managed`: the directory is ours to write to. `clock` gives Unix time in seconds."""
        self.managed = managed
        self._directory = Directory(directory, ours=managed)
        self._authority_directory = authority
        self._default_names = tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", base_domain)))
        self._clock = clock
        self._authority: Authority | None = None
        self._issued: dict[str, Certificate] = {}
        self._job: asyncio.Task[None] | None = None
        self._fault = ""
        self._ticket_key, self._ticket_key_made = "", 0.0
        self._wake: Callable[[], None] = lambda: None
        self._closing = False
        self._reader = ThreadPoolExecutor(1, "certificates")
        self._signer = ThreadPoolExecutor(1, "authority")

    def __repr__(self) -> str:
        return f"<Certificates {self._directory.path} issued={len(self._issued)}>"

    # --- what the reconciler asks ------------------------------------------------------------------------------------

    async def observe(self, *, full: bool = False) -> CertificateState:
        """What there is. `full` forgets why the authority failed, so that it is asked again."""
        found, problems = await self._in_thread(self._reader, self._directory.scan)
        now = self._clock()
        if full:
            self._fault = ""
        if now - self._ticket_key_made >= TICKET_KEY_SECONDS or not self._ticket_key:
            self._ticket_key, self._ticket_key_made = os.urandom(TICKET_KEY_BYTES).hex(), now
        expired = [name for name, leaf in self._issued.items() if leaf.not_after <= now]
        for name in expired:
            del self._issued[name]
        return CertificateState(
            files=found,
            issued=dict(self._issued),
            due=frozenset(name for name, leaf in self._issued.items() if due(leaf, now)),
            issuing=self._job is not None,
            fault=self._fault,
            problems=problems,
            ticket_key=self._ticket_key,
            now=now,
        )

    async def issue(self, names: Collection[str]) -> None:
        """Have the authority issue for these; returns when it has, or after PATIENCE, while it goes on.

        Raises CertificateError.
        """
        if self._job is None:
            self._job = asyncio.create_task(self._issue(tuple(names)), name="issue certificates")
        await asyncio.wait((self._job,), timeout=PATIENCE)
        if self._fault:
            raise CertificateError(self._fault)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when there is something new to observe; `run` looks for it."""
        self._wake = wake

    async def run(self) -> None:
        """Look at the directory, again and again, until cancelled."""
        while True:
            began = time.monotonic()
            if await self._in_thread(self._reader, self._directory.changed):
                self._wake()
            took = time.monotonic() - began
            await asyncio.sleep(max(_LOOK, took * _IDLE_SHARE))

    async def close(self) -> None:
        """End the threads. Safe to call twice."""
        self._closing = True
        if self._job is not None:
            self._job.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._job
        for executor in (self._reader, self._signer):
            executor.shutdown(wait=False, cancel_futures=True)

    # --- what people ask ---------------------------------------------------------------------------------------------

    async def add(self, name: str, chain: str, key: str) -> None:
        """Keep a pair in the directory. Raises RefusedError, InvalidInputError, StoreError; then nothing is kept."""
        self._check_managed()
        try:
            await self._in_thread(self._reader, functools.partial(self._directory.add, name, chain, key))
        except ValueError as error:
            raise InvalidInputError(str(error)) from None
        except OSError as error:
            raise StoreError(f"the certificate was not kept: {error.strerror}: {self._directory.path}") from None

    async def remove(self, name: str) -> None:
        """Remove a pair. Raises RefusedError, NotFoundError, StoreError."""
        self._check_managed()
        try:
            removed = await self._in_thread(self._reader, functools.partial(self._directory.remove, name))
        except ValueError as error:
            raise RefusedError(str(error)) from None
        except OSError as error:
            raise StoreError(f"{error.filename} was not removed: {error.strerror}") from None
        if not removed:
            raise NotFoundError(f"no certificate {name!r} in {self._directory.path}: see `sidegate cert ls`")

    async def authority(self) -> str:
        """The authority's certificate in PEM; it is made where there is none. Raises CertificateError."""
        return (await self._in_thread(self._signer, self._opened)).pem

    def _check_managed(self) -> None:
        if not self.managed:
            path = self._directory.path
            raise RefusedError(f"certificates = {path} is kept by others: change the files there, they are taken up")

    # --- the authority -----------------------------------------------------------------------------------------------

    async def _issue(self, names: tuple[str, ...]) -> None:
        made: dict[str, Certificate] = {}
        try:
            await self._in_thread(self._signer, functools.partial(self._sign, names, made))
            self._issued |= made
        except CertificateError as error:
            self._fault = str(error)
        finally:
            self._job = None
        self._wake()

    def _sign(self, names: tuple[str, ...], made: dict[str, Certificate]) -> None:
        authority = self._opened()
        for name in sorted(names, key=lambda name: name != DEFAULT_LEAF):
            if self._closing:
                return
            try:
                made[name] = authority.issue(*(self._default_names if name == DEFAULT_LEAF else (name,)))
            except ValueError as error:
                self._fault = f"no certificate can be issued for {name}: {error}"
            time.sleep(0)  # lets go of the interpreter: the event loop is waiting for it

    def _opened(self) -> Authority:
        if self._authority is None:
            directory = self._authority_directory
            try:
                self._authority = Authority(directory, self._clock)
            except OSError as error:
                raise CertificateError(f"the local authority cannot be kept in {directory}: {error.strerror}") from None
            except ValueError as error:
                raise CertificateError(f"the local authority cannot be used: {error}") from None
        return self._authority

    async def _in_thread(self, executor: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, call)
