"""The Docker engine: whether it answers, which one it is, and how it is set up."""

from collections.abc import Iterator

from sidegate.adapters.docker.client import NEWEST_API
from sidegate.doctor.findings import Check, Told, fault, quoted, warning
from sidegate.doctor.snapshot import AS_ROOT, NotSeenError, Snapshot, Unseen, known

TESTED_API = "1.41"
"""The oldest that the tests run on (20.10)."""
CONFIG = "/etc/docker/daemon.json"


def reachable(seen: Snapshot) -> Iterator[Told]:
    """That a daemon runs, whoever's, means that it may use what we may not."""
    reach = seen.reach
    if reach.fault == "denied" and (seen.daemon.status or seen.daemon.denied or seen.daemons):
        raise NotSeenError(Unseen(f"{reach.url} is closed to you", AS_ROOT))
    here = f"the Docker engine at {reach.url}"
    start = "systemctl start docker"
    match reach.fault:
        case "":
            return
        case "missing" if not reach.installed:
            yield fault(
                f"{here} is not there, and none is installed on this machine",
                command="apt-get install docker.io",
                advice="Or name another in the setting docker_host.",
            )
        case "missing":
            yield fault(f"{here} does not run: there is no such socket", command=start)
        case "refused":
            yield fault(f"nobody listens at {here.removeprefix('the ')}", command=start)
        case "denied" if reach.group:
            yield fault(
                f"you may not use {here}, which is for the group {reach.group}",
                command=f"sudo usermod -aG {quoted(reach.group)} {quoted(seen.viewer.name)}",
                advice="Then log in again.",
            )
        case "denied":
            yield fault(f"you may not use {here}, which is root's alone", command="sudo sidegate doctor")
        case "silent":
            yield fault(
                f"{here} takes connections and does not answer ({reach.said})",
                command="systemctl restart docker",
                advice="Its log says what it waits for: `journalctl -u docker`.",
            )
        case _:
            yield fault(f"{here} cannot be used: {reach.said}", advice="Check the setting docker_host.")


def version(seen: Snapshot) -> Iterator[Told]:
    engine = known(seen.engine)
    mend = {"advice": "Install a current engine: https://docs.docker.com/engine/install/"}
    if _number(engine.least_api) > _number(NEWEST_API):
        yield fault(
            f"engine {engine.version} takes API {engine.least_api} and newer, and this Sidegate speaks {NEWEST_API}",
            advice="Install a newer Sidegate.",
        )
    elif _number(engine.api) < _number(TESTED_API):
        yield fault(f"engine {engine.version} (API {engine.api}) is too old: {TESTED_API} is the oldest tested", **mend)


def _number(api: str) -> tuple[int, ...]:
    return tuple(int(part) for part in api.split(".") if part.isdigit())


def rootless(seen: Snapshot) -> Iterator[Told]:
    if known(seen.engine).rootless:
        yield warning(
            "the engine runs without root: its containers cannot be reached from this machine's network, and whoever "
            "comes through its published ports has lost his address, so that allow lists mean nothing",
            advice="Use an engine that root runs: `docker context use default`, and the setting docker_host.",
        )


def desktop(seen: Snapshot) -> Iterator[Told]:
    if known(seen.engine).desktop and not seen.viewer.contained:
        yield fault(
            "the engine is Docker Desktop's, in a machine of its own: no container can be reached from here",
            command="docker compose -f config/compose.yaml up -d",
            advice="Run the daemon as a container, on a network of its own: docs/container.md.",
        )


def userland_proxy(seen: Snapshot) -> Iterator[Told]:
    """It matters where visitors reach the daemon through ports that the engine publishes over IPv6."""
    engine = known(seen.engine)
    if engine.userland_proxy and any(p.id in seen.own_containers and ":" in p.address for p in engine.publications):
        yield warning(
            "the engine's userland proxy takes visitors over IPv6 to the daemon's published ports: they have lost "
            "their addresses, so that allow lists and limits take them for one",
            advice="Publish the daemon's ports at 0.0.0.0 alone, or run it with --network host.",
        )


def swarm(seen: Snapshot) -> Iterator[Told]:
    if known(seen.engine).swarm:
        yield warning(
            "the engine is part of a swarm, whose tasks Sidegate leaves out",
            advice="Where `docker service ls` is empty on its managers, `docker swarm leave` ends that.",
        )


def live_restore(seen: Snapshot) -> Iterator[Told]:
    engine = known(seen.engine)
    if engine.live_restore or engine.desktop or engine.swarm:  # neither of the two has it
        return
    text = "each restart of the engine stops every container: live-restore is off"
    if engine.config_file:
        yield warning(text, advice=f'Add "live-restore": true to {CONFIG}, then `systemctl reload docker`.')
    else:
        make = f"""test ! -e {CONFIG} && mkdir -p /etc/docker && echo '{{"live-restore": true}}' > {CONFIG}"""
        command = f"{make} && systemctl reload docker"
        yield warning(text, command=command)


CHECKS = (
    Check("engine", "the Docker engine answers", reachable),
    Check("engine-version", f"the engine speaks an API between {TESTED_API} and {NEWEST_API}", version),
    Check("engine-rootless", "the engine runs as root", rootless),
    Check("engine-desktop", "the engine's containers can be reached from here", desktop),
    Check("userland-proxy", "no userland proxy hides who comes to the daemon's published ports", userland_proxy),
    Check("swarm", "the engine is no part of a swarm", swarm),
    Check("live-restore", "containers outlive a restart of the engine (live-restore)", live_restore),
)
