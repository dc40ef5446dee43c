"""What carries each external connection, and what to do so that it does. Pure.

The userspace listener is always there: it keeps the port, serves clients on this machine and over IPv6, and refuses,
counts and logs whom nobody lets in. The kernel comes besides it, where it can be used.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from sidegate.core.cutting import KillCut
from sidegate.core.gates import AccessList, Gate, KernelForward, kernel_forward
from sidegate.core.model import External, Problem
from sidegate.core.plan import (
    Action,
    CloseForwarder,
    CutForwarded,
    ForwardInKernel,
    OpenForwarder,
    ReserveForKernel,
    StopForwarding,
)
from sidegate.core.routes import DatabaseTarget
from sidegate.core.sessions import Listening

OFF = "the external connection is off"
ON = "the external connection is on"
CHANGED = "who may come in was changed"
DOWN = "the database does not run"
LOCAL = "no IPv4 client from elsewhere may come in"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """How one external connection is to be carried. `why` says why it is the workers alone, where the kernel was
    wanted; empty: nothing stands in the way."""

    gate: Gate
    kernel: KernelForward | None = None
    why: str = ""

    @property
    def limited(self) -> bool:
        """Whether the kernel counts, so that a client it turns down must not come in through the listener.

        Nor does one that it does not take because our lease on its rules has lapsed: the daemon stands still, nobody
        could switch it off, and who knows what the client would have counted for. Closed is the safe side.
        """
        return self.kernel is not None and bool(self.gate.max_sessions or self.gate.max_new)


def carry(external: External, address: str, setting: str, kernel_fault: str) -> Forwarding:
    """`address` is the database's, empty while it does not run; `setting` is what the settings say, and
    `kernel_fault` why the kernel cannot be used on this host."""
    mode = external.forwarder or setting
    if mode == "userspace":
        return Forwarding(external.gate)
    if kernel_fault:
        return Forwarding(external.gate, why=kernel_fault)
    forward = kernel_forward(_access(external.gate), address)
    return Forwarding(external.gate, forward, "" if forward else LOCAL if address else DOWN)


@lru_cache(maxsize=1024)
def _access(gate: Gate) -> AccessList:
    """Lists may be long, and are the same at nearly every pass."""
    return AccessList(gate)


def carry_all(
    externals: Mapping[str, External], targets: Mapping[str, DatabaseTarget], setting: str, kernel_fault: str
) -> dict[str, Forwarding]:
    """The external connections that are on: database -> how each is carried."""
    return {
        name: carry(external, targets.get(name, DatabaseTarget()).address, setting, kernel_fault)
        for name, external in sorted(externals.items())
        if external.enabled
    }


def forwarding_problems(externals: Mapping[str, External], setting: str, kernel_fault: str) -> Iterator[Problem]:
    """External connections that were to be the kernel's and are not."""
    for name, external in externals.items():
        if external.enabled and kernel_fault and (external.forwarder or setting) == "kernel":
            text = f"its external connection goes through the workers, although forwarder = kernel: {kernel_fault}"
            yield Problem(name, text)


@dataclass(frozen=True, slots=True)
class Kernel:
    """`forwards`: what the kernel forwards, by public port. `ports`: those through which it may have sessions, which
    are more after a rule has gone or a cut has failed."""

    forwards: Mapping[int, KernelForward] = field(default_factory=dict)
    ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a database whose external connection is acted on. `pid` is 0 while it does not run; `peer` is
    what it sees as the client of whatever is forwarded: the gateway of its home network, empty without one."""

    database: str
    pid: int = 0
    peer: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveToWorkers(StopForwarding):
    """Take a port from the kernel that stays open: after the listener serves those too whom it had left to the kernel,
    or it would refuse them meanwhile as over their limit."""

    rank: ClassVar[int] = 5


def close_actions(place: Place, present: Listening, kernel: Kernel) -> Iterator[Action]:
    """Off: both ways in at once, then the sessions of the kernel; those of the workers end with their listener."""
    port = present.gate.port
    if port in kernel.ports:
        yield StopForwarding(database=place.database, port=port, cause=OFF)
    yield CloseForwarder(database=place.database, port=port, cause=OFF)
    if port in kernel.ports:
        yield cut(place, port, OFF)


def open_actions(place: Place, wanted: Forwarding, present: Listening | None, kernel: Kernel) -> Iterator[Action]:
    """On, or changed while on: the listener first, which is there to take whoever the kernel leaves to it."""
    name, gate = place.database, wanted.gate
    carried = kernel.forwards.get(gate.port)
    here = present if present is not None and present.gate.port == gate.port else None
    settled = carried == wanted.kernel
    if here is None or here.gate != gate or (here.kernel and not (settled and wanted.limited)):
        cause = ON if here is None else CHANGED if here.gate != gate else _left(wanted)
        yield OpenForwarder(database=name, port=gate.port, gate=gate, cause=cause)
    parting = here is not None and here.gate != gate and not _access(gate).keeps(_access(here.gate))
    if wanted.kernel is None:
        if gate.port in kernel.ports:
            yield LeaveToWorkers(database=name, port=gate.port, cause=_left(wanted))
            yield cut(place, gate.port, _left(wanted))
            parting = bool(place.pid)  # there is a server that may be busy with them
    elif not settled:
        yield ForwardInKernel(database=name, port=gate.port, forward=wanted.kernel, cause=_forwarded(carried))
        if carried and carried.address != wanted.kernel.address:
            yield cut(place, gate.port, "the database has another address")
            parting = False  # they were another server's
        elif gate.port in kernel.ports and wanted.kernel.admitted is not None:
            yield cut(place, gate.port, CHANGED, gate)
            parting = True
    if wanted.limited and not (here and here.kernel and here.gate == gate and settled):
        yield ReserveForKernel(database=name, port=gate.port, gate=gate, cause="the kernel counts sessions")
    if parting:
        yield KillCut(database=name, port=gate.port, cause=CHANGED)


def stray_actions(
    names: Mapping[int, str], wanted: Iterable[Forwarding], places: Mapping[str, Place], ports: Iterable[int]
) -> Iterator[Action]:
    """Those of `ports` that nobody wants: what an earlier pass, or an earlier daemon, could not stop. `names` says
    whose each port is."""
    for port in sorted(set(ports) - {forwarding.gate.port for forwarding in wanted}):
        name = names.get(port, f"port {port}")
        yield StopForwarding(database=name, port=port, cause=OFF)
        yield cut(places.get(name, Place(name)), port, OFF)


def cut(place: Place, port: int, cause: str, gate: Gate | None = None) -> CutForwarded:
    """All sessions through the kernel, or those that `gate` does not admit."""
    return CutForwarded(database=place.database, port=port, pid=place.pid, peer=place.peer, gate=gate, cause=cause)


def _left(wanted: Forwarding) -> str:
    return f"the workers take it: {wanted.why}" if wanted.why else "the workers take it"


def _forwarded(carried: KernelForward | None) -> str:
    return "the kernel takes it" if carried is None else "the database or who may come in has changed"
