"""The settings, and what the daemon says of itself."""

from collections.abc import Iterator

from sidegate import __version__
from sidegate.doctor.findings import Check, Told, fault, quoted, warning
from sidegate.doctor.openings import openings
from sidegate.doctor.snapshot import Engine, NotSeenError, Snapshot, Unseen


def settings(seen: Snapshot) -> Iterator[Told]:
    for line in seen.settings_faults:
        yield fault(line, advice=f"Correct it where it comes from ({seen.settings_file}, or a variable SIDEGATE_...).")


def answers(seen: Snapshot) -> Iterator[Told]:
    daemon = seen.daemon
    if daemon.denied:
        raise NotSeenError(Unseen(daemon.fault))
    if daemon.status is not None:
        if not daemon.status.ready:
            yield fault("the daemon is not ready: no worker serves", command="sidegate status")
        if daemon.status.engine_fault:
            yield fault(f"the daemon has lost the engine: {daemon.status.engine_fault}", advice="See the group engine.")
    elif daemon.file == "other":
        yield fault(f"{daemon.path} is there and is not a socket", command=f"rm {quoted(daemon.path)}")
    elif daemon.fault and not daemon.stale:
        yield fault(daemon.fault, advice="See its log; end and start it again if it goes on.")
    elif daemon.holder:
        yield fault(
            f"process {daemon.holder} holds {seen.settings.state_dir}, and nobody answers at {daemon.path}",
            command=f"kill {daemon.holder}",
            advice="It may have another runtime_dir: name its socket with --socket. Else end it and start it again.",
        )


def stale_socket(seen: Snapshot) -> Iterator[Told]:
    if seen.daemon.stale and not seen.daemon.holder:
        yield warning(f"{seen.daemon.path} is left of a daemon that is gone", command=f"rm {quoted(seen.daemon.path)}")


def problems(seen: Snapshot) -> Iterator[Told]:
    status = seen.daemon.status
    if status is None:
        return
    said = {str(opening) for opening in openings(seen)} if isinstance(seen.engine, Engine) else set()
    for problem in status.problems:
        if str(problem) not in said:
            yield warning(str(problem), command="sidegate status")
    for failure in status.failures:
        yield warning(f"the last pass could not do everything: {failure}", advice="It is tried again at each pass.")


def same(seen: Snapshot) -> Iterator[Told]:
    status = seen.daemon.status
    if status is None:
        return
    again = "Start the daemon again; `systemctl restart sidegated` where systemd runs it."
    if status.version != __version__:
        yield warning(f"the daemon is version {status.version}, and this is {__version__}", advice=again)
    if status.pool != str(seen.settings.internal_pool):
        yield warning(
            f"the daemon cuts networks from {status.pool}, and the settings say {seen.settings.internal_pool}",
            advice=f"{again} Or look with the settings that it has: --config FILE.",
        )


CHECKS = (
    Check("settings", "the settings can be read", settings),
    Check("daemon", "the daemon at the control socket is ready, or none runs", answers),
    Check("daemon-problems", "the daemon reports no problem and its last pass did everything", problems),
    Check("daemon-version", "the daemon has the version and the pool that the settings say", same),
    Check("control-socket-stale", "no control socket is left of a daemon that is gone", stale_socket),
)
