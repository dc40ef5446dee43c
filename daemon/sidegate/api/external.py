"""The verbs of external connections: on, off, allow and deny, extend, kick, show, ls, sessions."""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sidegate.api import schemas
from sidegate.api.external_views import external_view, forwarded_sessions, session_views
from sidegate.api.names import require_database
from sidegate.api.world import Failure, World
from sidegate.core.durations import parse_duration
from sidegate.core.gates import Entry, Gate, check_gate, parse_address, parse_cidr, parse_entries
from sidegate.core.model import FORWARDERS, External
from sidegate.core.plan import ForwarderAction
from sidegate.core.reconcile import places
from sidegate.errors import (
    DataPlaneError,
    InvalidInputError,
    NotFoundError,
    PortInUseError,
    RefusedError,
    SidegateError,
    StoreError,
)

PORTS_TRIED = 16  # free by the look of it, yet refused when bound: more than a few are no accident


@dataclass(frozen=True, slots=True)
class ExternalVerbs:
    """One public forwarder per database: its port is chosen once and stays, and so do its lists and limits."""

    world: World

    async def on(
        self, name: str, port: int | None = None, terms: schemas.ExternalRequest | None = None
    ) -> schemas.ExternalView:
        """Listen, on the port that it always had, on `port`, or on the lowest free one; returns once that is so.

        On already: the terms are changed, and only sessions that they no longer admit are cut. Raises NotFoundError,
        InvalidInputError, RefusedError (another database's port; the kernel cannot be used and has to), PortInUseError
        naming the holder, DataPlaneError; then everything is as it was.
        """
        await require_database(self.world, name)
        if port is not None:
            self._check_port(name, port)
        previous = self.world.intent.externals.get(name)
        asked = terms or schemas.ExternalRequest(enabled=True)
        wanted = self._with_terms(previous or External(Gate(self.world.external_ports.start), enabled=False), asked)
        check_gate(wanted.gate)
        if self.world.kernel is None or self.world.kernel.fault:
            await self._check_kernel(wanted)
        stable = port if port is not None else previous.port if previous else None
        if stable is not None:
            if fault := self._unpublished(stable):
                raise RefusedError(fault)
            await self._open(name, _at(wanted, stable), previous)
        else:
            await self._open_lowest(name, wanted)
        advice = f"turn it off when it is not in use: sidegate external off {name}"
        return await external_view(
            self.world, name, advice=advice, warn=True, just_switched=not (previous and previous.enabled)
        )

    async def off(self, name: str) -> schemas.ExternalView:
        """Refuse from now on and cut every session; the port, the lists and the limits stay. Off already is fine.

        Works without the Docker engine. Raises NotFoundError, DataPlaneError, HostToolError; StoreError where it is so
        until a restart, as it could not be saved.
        """
        await require_database(self.world, name)
        sessions, unsaved = await asyncio.gather(forwarded_sessions(self.world, name), self._write_off(name))
        if fault := _failure(await self.world.switch(name), name):
            raise fault
        if name in self.world.data_plane.listeners():
            raise DataPlaneError(f"{name} is still open: see `sidegate status`")
        if unsaved:
            raise type(unsaved)(
                f"{name} is closed and its sessions are cut ({len(sessions)}), but that is not saved, and a restart of "
                f"the daemon would open it again: {str(unsaved).removesuffix(': nothing was changed')}"
            ) from unsaved
        return await external_view(self.world, name, sessions_cut=len(sessions), just_switched=True)

    async def edit(self, name: str, edit: schemas.ExternalEdit) -> schemas.ExternalView:
        """Add lines to the lists and take some away, and put off the end; sessions that are still admitted go on.

        Raises as `on` does, also where a line to be taken away is not there.
        """
        await require_database(self.world, name)
        previous = self.world.intent.externals.get(name)
        if previous is None:
            raise RefusedError(f"{name} has never been on: `sidegate external on {name}` takes the lists too")
        gate = previous.gate
        allow = _edited(gate.allow, edit.allow, edit.remove_allow, "allow")
        if gate.allow and not allow and not gate.local:
            raise RefusedError("an empty allow list lets anybody in: say so with `external on --anybody`")
        deny = _edited(gate.deny, edit.deny, edit.remove_deny, "deny")
        wanted = replace(previous, gate=check_gate(replace(gate, allow=allow, deny=deny)))
        if edit.expires_in is not None:
            wanted = replace(wanted, expires_at=self._extended(name, previous, edit.expires_in))
        if wanted != previous:
            async with self.world.writing:
                await self.world.store.set_external(name, wanted)
            if wanted.enabled:
                await self._settle_open(name, wanted, previous)
        return await external_view(self.world, name, warn=True)

    async def kick(self, name: str, client: str) -> schemas.Kicked:
        """End a client's sessions, or the one of `address:port`, at both ends, queries that run included; it may come
        again. Raises NotFoundError where it has none.
        """
        await require_database(self.world, name)
        external = self.world.intent.externals.get(name)
        whole = parse_address(client.strip("[]"))
        cut = await self.world.data_plane.kick(name, str(whole) if whole else client)
        kernel = self.world.kernel
        try:
            if external and kernel and not kernel.fault:
                place = places(self.world.loop.last.desired, self.world.state, self.world.loop.rules).get(name)
                pid, peer = (place.pid, place.peer) if place else (0, "")
                cut += await kernel.kick(name, external.port, pid, peer, {str(whole) if whole else client})
        finally:
            if external and cut.clients:
                await self.world.loop.kill_cut(name, external.port, cut.clients)
        if not cut.count:
            raise NotFoundError(f"{client} has no session on {name}: see `sidegate external sessions {name}`")
        return schemas.Kicked(database=name, client=client, sessions=cut.count)

    async def show(self, name: str) -> schemas.ExternalView:
        """Whether it is on, where, and who is on it. Raises NotFoundError."""
        await require_database(self.world, name)
        return await external_view(self.world, name, warn=True)

    async def ls(self) -> list[schemas.ExternalView]:
        """Every database's external connection."""
        await self.world.seen()
        return list(await asyncio.gather(*(external_view(self.world, name) for name in sorted(self.world.databases))))

    async def sessions(self, name: str) -> list[schemas.SessionView]:
        """The clients of an external connection, the oldest first. Raises NotFoundError."""
        await require_database(self.world, name)
        return session_views(name, await forwarded_sessions(self.world, name))

    # --- terms

    def _with_terms(self, external: External, asked: schemas.ExternalRequest) -> External:
        gate, now = external.gate, self.world.wall()
        gate = replace(
            gate,
            allow=gate.allow if asked.allow is None else parse_entries(map(_line, asked.allow)),
            deny=gate.deny if asked.deny is None else parse_entries(map(_line, asked.deny)),
            local=self._is_local(gate.local if asked.local is None else asked.local, asked.local),
            max_sessions=gate.max_sessions if asked.max_sessions is None else asked.max_sessions,
            max_new=gate.max_new if asked.max_new is None else asked.max_new,
        )
        if asked.forwarder not in (None, "", *FORWARDERS):
            raise InvalidInputError(f"forwarder {asked.forwarder!r} is not one of {', '.join(FORWARDERS)}")
        lasting = None if asked.expires_in is None else parse_duration(asked.expires_in)
        idle_off = external.idle_off if asked.idle_off is None else parse_duration(asked.idle_off)
        return External(
            gate=gate,
            enabled=True,
            expires_at=external.expires_at if lasting is None else now + lasting if lasting else 0.0,
            idle_off=idle_off,
            forwarder=external.forwarder if asked.forwarder is None else asked.forwarder,
            used_at=now if idle_off else 0.0,
        )

    def _is_local(self, local: bool, asked: bool | None) -> bool:
        """Where nothing listens for other machines every external connection is for this one."""
        if not self.world.loop.rules.loopback:
            return local
        if asked is False:
            raise RefusedError("only this machine is listened to: set listen = all in the settings")
        return True

    def _extended(self, name: str, external: External, text: str) -> float:
        if not external.enabled:
            raise RefusedError(f"{name} is off: say for how long with `sidegate external on {name} --for`")
        seconds = parse_duration(text)
        if not seconds:
            return 0.0
        if not external.expires_at:
            raise RefusedError(f"{name} has no end to put off: it stays on until it is turned off")
        return max(external.expires_at, self.world.wall()) + seconds

    # --- opening

    def _check_port(self, name: str, port: int) -> None:
        ports = self.world.external_ports
        if port not in ports:
            raise InvalidInputError(f"port {port} is not in external_ports: use one of {ports.start}-{ports.stop - 1}")
        for other, external in self.world.intent.externals.items():
            if other != name and external.port == port:
                raise RefusedError(f"port {port} is kept for {other}: choose another, or leave the choice to Sidegate")

    def _unpublished(self, port: int) -> str:
        """Why nobody outside of our own container reaches a port; empty where somebody does."""
        return self.world.container.port_fault(port) if self.world.container else ""

    async def _check_kernel(self, wanted: External) -> None:
        if (wanted.forwarder or self.world.loop.rules.forwarder) == "kernel":
            kernel = self.world.kernel
            if fault := await kernel.look() if kernel else "this daemon has no kernel forwarder":
                raise RefusedError(f"forwarder = kernel, and the kernel cannot forward here: {fault}")

    async def _open_lowest(self, name: str, wanted: External) -> None:
        """Try the free ports from below: one may be taken between a look and the bind, or out of our sight."""
        tried: set[int] = set()
        while True:
            async with self.world.writing:
                given = {external.port for other, external in self.world.intent.externals.items() if other != name}
                open_to_all = (p for p in self.world.external_ports if not self._unpublished(p))
                candidates = (p for p in open_to_all if p not in given | tried)
                port = next((p for p in candidates if not self.world.port_holder(p)), None)
                if port is None:
                    ports = self.world.external_ports
                    few = " and published by Sidegate's own container (-p)" if self.world.container else ""
                    raise RefusedError(f"no port of external_ports {ports.start}-{ports.stop - 1} is free{few}")
                await self.world.store.set_external(name, _at(wanted, port))
                self.world.loop.hold(name, closed=False)
            tried.add(port)
            try:
                return await self._settle_open(name, _at(wanted, port), None)
            except PortInUseError:
                if len(tried) == PORTS_TRIED:
                    raise

    async def _open(self, name: str, wanted: External, previous: External | None) -> None:
        async with self.world.writing:
            self._check_free(name, wanted.port)
            await self.world.store.set_external(name, wanted)
            self.world.loop.hold(name, closed=False)
        await self._settle_open(name, wanted, previous)

    def _check_free(self, name: str, port: int) -> None:
        if any(external.port == port for other, external in self.world.intent.externals.items() if other != name):
            raise RefusedError(f"port {port} was just given to another database: choose another")

    async def _settle_open(self, name: str, wanted: External, previous: External | None) -> None:
        """Have it listen on these terms, or put back what was before and say why."""
        try:
            found = _failure(await self.world.switch(name), name)
            present = self.world.data_plane.listeners().get(name)
            if present is not None and present.gate == wanted.gate and found is None:
                return await self._check_kernel(wanted)
            fault = found or DataPlaneError(f"{name} does not listen on port {wanted.port}")
        except SidegateError as error:
            fault = error
        async with self.world.writing:
            current = self.world.intent.externals.get(name)
            if current and replace(current, used_at=wanted.used_at) == wanted:
                if previous is None:
                    await self.world.store.forget_external(name)
                else:
                    await self.world.store.set_external(name, previous)
        with contextlib.suppress(SidegateError):
            await self.world.switch(name)
        raise fault

    async def _write_off(self, name: str) -> StoreError | None:
        """Save that it is off, or else hold it closed; returns why it is not saved."""
        async with self.world.writing:
            previous = self.world.store.intent.externals.get(name)
            if previous and previous.enabled:
                off = replace(previous, enabled=False, expires_at=0.0, used_at=0.0)
                try:
                    await self.world.store.set_external(name, off)
                except StoreError as error:
                    self.world.loop.hold(name, closed=True)
                    return error
        return None


def _at(external: External, port: int) -> External:
    return replace(external, gate=replace(external.gate, port=port))


def _line(text: str) -> tuple[str, str]:
    """`network=description` in its two parts."""
    network, _, description = text.partition("=")
    return network, description


def _edited(entries: tuple[Entry, ...], added: Iterable[str], removed: Iterable[str], which: str) -> tuple[Entry, ...]:
    kept = {entry.cidr: entry.description for entry in entries}
    for text in removed:
        if kept.pop(cidr := parse_cidr(text), None) is None:
            raise NotFoundError(f"{cidr} is not on the {which} list: {', '.join(kept) or 'it is empty'}")
    kept |= {entry.cidr: entry.description for entry in parse_entries(map(_line, added))}
    return parse_entries(kept.items())


def _failure(failures: Sequence[Failure], name: str) -> SidegateError | None:
    """Why what was asked of a database's forwarder could not be done."""
    faults = (
        f.error
        for f in failures
        if isinstance(f.action, ForwarderAction) and f.action.essential and f.action.database == name
    )
    return next(faults, None)
