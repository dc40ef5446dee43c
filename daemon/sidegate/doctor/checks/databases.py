"""Databases that can be reached past Sidegate."""

from collections.abc import Iterator

from sidegate.core.compose import database_engine
from sidegate.core.desired import exposures
from sidegate.core.labels import discover
from sidegate.doctor.findings import Check, Told, quoted, reference, warning
from sidegate.doctor.openings import openings
from sidegate.doctor.snapshot import Snapshot, known

LOOPBACK = ("127.", "::1")


def labelled(seen: Snapshot) -> Iterator[Told]:
    """What the daemon says of them, too, and a command where one is enough."""
    state, own = known(seen.engine).state, seen.settings.rules()
    found = discover(state.containers, own).databases
    for problem in openings(seen):
        container = found[problem.subject].container.name
        exposed = [n for n in exposures(found[problem.subject], state, own) if f"through {n} " in problem.text]
        networks = [network for network in state.networks if network.name in exposed[:1]]
        if networks:
            yield warning(
                str(problem),
                command=f"docker network disconnect {reference(networks[0])} {quoted(container)}",
                advice=f"While a daemon runs, which has it at home; who uses it there needs `sidegate connect APP "
                f"{problem.subject}` first.",
            )
        else:
            advice = f"Whoever comes from elsewhere has `sidegate external on {problem.subject}`."
            yield warning(str(problem), advice=advice)


def strangers(seen: Snapshot) -> Iterator[Told]:
    """Known by their image or their variables; loopback alone is nobody's way in."""
    engine = known(seen.engine)
    labelled = discover(engine.state.containers, seen.settings.rules()).databases.values()
    ours = {database.container.id for database in labelled}
    for container in engine.state.containers:
        kind = database_engine(container)
        if not kind or container.id in ours:
            continue
        ports = {p.port for p in engine.publications if p.id == container.id and not p.address.startswith(LOOPBACK)}
        if ports:
            yield warning(
                f"container {container.name} runs {kind} and publishes port {', '.join(map(str, sorted(ports)))} to "
                "whoever reaches this host, past its firewall's INPUT chain",
                advice="Run it without -p, or with -p 127.0.0.1:PORT:PORT, and with the labels sidegate.database and "
                "sidegate.engine.",
            )


def labels(seen: Snapshot) -> Iterator[Told]:
    """While a daemon answers, it says these itself."""
    if seen.daemon.status is None:
        for problem in discover(known(seen.engine).state.containers, seen.settings.rules()).problems:
            yield warning(str(problem), advice="Make that container anew with other labels.")


CHECKS = (
    Check("databases", "no labelled database publishes itself or can be reached without a connection", labelled),
    Check("unlabelled-databases", "no other MariaDB, MySQL or PostgreSQL publishes itself to the world", strangers),
    Check("labels", "every container's labels are understood", labels),
)
