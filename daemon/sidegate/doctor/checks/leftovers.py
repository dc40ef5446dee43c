"""What daemons have left behind: networks, rules and containers of an instance that no daemon runs for."""

from collections.abc import Iterable, Iterator, Sequence

from sidegate.adapters.host import CHAIN, COMMENT_PREFIX
from sidegate.adapters.nft.fence import FAMILIES, SUFFIX
from sidegate.adapters.nft.forwarder import TABLES
from sidegate.core.labels import INSTANCE, MANAGED
from sidegate.core.model import DEFAULT_INSTANCE
from sidegate.core.rollout import NEXT, OLD
from sidegate.doctor.checks.firewall import docker_user_rules, our_fences, our_tables
from sidegate.doctor.findings import Check, Told, quoted, warning
from sidegate.doctor.snapshot import Snapshot, known

SHOWN = 3
ALL_OF = """\
networks=$(docker network ls -q --filter label={managed}=true --filter label={label}={instance})
for network in $networks; do
  name=$(docker network inspect -f '{{{{.Name}}}}' $network)
  docker ps -aq --filter network="$name" | xargs -r -n1 docker network disconnect -f -- "$name"
  docker network rm $network
done"""


def networks(seen: Snapshot) -> Iterator[Told]:
    """Of our own instance they are wanted while there is state for them."""
    found: dict[str, list[str]] = {}
    for network in known(seen.engine).state.networks:
        if network.labels.get(MANAGED) == "true":
            found.setdefault(network.labels.get(INSTANCE, DEFAULT_INSTANCE), []).append(network.name)
    for instance, names in _gone(seen, found):
        if instance == seen.settings.instance and seen.files.state_dir is not None:
            if known(seen.files.state):
                continue
            why = f"{seen.settings.state_dir} has no state that asks for them"
        else:
            why = "no daemon of that instance runs"
        yield warning(
            f"{_some(names)} of instance {instance} {'is' if len(names) == 1 else 'are'} left over: {why}",
            command=ALL_OF.format(managed=MANAGED, label=INSTANCE, instance=quoted(instance)),
            advice="Not where that daemon is only stopped for a while: its apps and databases would lose each other "
            "until it runs again.",
        )


def tables(seen: Snapshot) -> Iterator[Told]:
    found = {instance: [f"{TABLES}{instance}"] for instance in our_tables(known(seen.firewall))}
    for instance, (name,) in _gone(seen, found):
        yield warning(
            f"the nftables table {name} is left of instance {instance}, whose daemon does not run; it lets nobody in",
            command=f"nft delete table ip {quoted(name)}",
        )


def fences(seen: Snapshot) -> Iterator[Told]:
    """A daemon that is stopped leaves its networks, and what guards them."""
    guarded = {network.labels.get(INSTANCE) for network in known(seen.engine).state.networks}
    found = {instance: [f"{TABLES}{instance}{SUFFIX}"] for instance in our_fences(known(seen.firewall))}
    for instance, (name,) in _gone(seen, found):
        if instance not in guarded:
            yield warning(
                f"the nftables table {name} is left of instance {instance}, which has no network any more",
                command="\n".join(f"nft delete table {family} {quoted(name)}" for family in FAMILIES),
            )


def accepts(seen: Snapshot) -> Iterator[Told]:
    found: dict[str, list[str]] = {}
    for rule in docker_user_rules(known(seen.firewall)):
        comment = next((word for word in rule if word.startswith(COMMENT_PREFIX)), "")
        if comment:
            command = " ".join(map(quoted, ("iptables", "-D", CHAIN, *rule)))
            found.setdefault(comment.removeprefix(COMMENT_PREFIX).partition(":")[0], []).append(command)
    for instance, commands in _gone(seen, found):
        count = f"{len(commands)} rule{'s' if len(commands) > 1 else ''}"
        yield warning(
            f"{CHAIN} has {count} of instance {instance}, whose daemon does not run", command="\n".join(commands)
        )


def copies(seen: Snapshot) -> Iterator[Told]:
    found: dict[str, list[str]] = {}
    for container in known(seen.engine).state.containers:
        if container.name.endswith((NEXT, OLD)):
            found.setdefault(container.labels.get(INSTANCE, DEFAULT_INSTANCE), []).append(container.name)
    for instance, names in _gone(seen, found):
        yield warning(
            f"{_some(names)} of instance {instance} stand in a replacement that was broken off",
            command="sidegate run" if instance == seen.settings.instance else "",
            advice="That instance's daemon goes on with it when it starts; without one, remove or rename them by hand.",
        )


def _gone(seen: Snapshot, found: dict[str, list[str]]) -> Iterable[tuple[str, Sequence[str]]]:
    """Those of instances for which no daemon runs. Raises NotSeenError where that cannot be said."""
    own = seen.settings.instance if seen.daemon.status is not None else None
    return [
        (instance, things) for instance, things in found.items() if instance != own and not seen.daemon_of(instance)
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


CHECKS = (
    Check("left-networks", "every network of ours belongs to a daemon, or to state that asks for it", networks),
    Check("left-tables", "every nftables table of ours belongs to a daemon that runs", tables),
    Check("left-fences", "every fence has networks, or a daemon that runs", fences),
    Check("left-rules", f"every rule of ours in {CHAIN} belongs to a daemon that runs", accepts),
    Check("left-copies", f"no X{NEXT} or X{OLD} stands without a daemon", copies),
)
