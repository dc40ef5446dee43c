"""Every database engine answers at 3306: a redirect to its own port, in the database's own network namespace.

Owns one nftables table in the namespaces of containers, and never touches the host's. A rule of the kernel, with no
process of ours behind it: it holds on every network of the container, and goes with its namespace when that stops.
"""

from sidegate.adapters.nft.commands import Commands, GoneError, Object, enter, first_line
from sidegate.core.database_ports import DatabasePort, PortState
from sidegate.core.model import DATABASE_PORT
from sidegate.errors import HostToolError, RefusedError

FAMILY, TABLE = "ip", "sidegate-port"
HOOKS = {"prerouting": -100, "output": -100}


class DatabasePorts:
    """Redirects by the pid of any process of the container. A container that restarts has a new pid and no redirect.

    The caller makes sure that the pid is still the container's; one in the host's own namespace is refused, which is
    that of `host_process` where it is not ours.
    """

    def __init__(self, commands: Commands | None = None, *, host_process: int = 0) -> None:
        self._host_process = host_process
        self._commands = commands or Commands()

    async def observe(self, pid: int) -> DatabasePort:
        """Look, in about 10 ms. Raises HostToolError where the namespace cannot be entered."""
        try:
            with self._commands.network_of(pid) as namespace:
                self._check_not_ours(pid)
                target = await self._target(namespace)
                if await self._listens(namespace):
                    return DatabasePort(PortState.OWN, target)
                return DatabasePort(PortState.REDIRECTED if target else PortState.ABSENT, target)
        except GoneError:
            return DatabasePort(PortState.GONE)

    async def redirect(self, pid: int, native: int) -> None:
        """Have 3306 lead to `native`; as it is already is success. Connections that are open go on.

        Raises RefusedError where the database listens at 3306 itself or has the host's network, HostToolError where
        the daemon lacks the right or the process is gone.
        """
        if native == DATABASE_PORT:
            return
        with self._commands.network_of(pid) as namespace:
            self._check_not_ours(pid)
            if await self._listens(namespace):
                raise RefusedError(
                    f"something listens at port {DATABASE_PORT} of the database itself: it is left alone, "
                    f"and port {native} is not redirected"
                )
            if await self._target(namespace) != native:
                await self._commands.change_tables(_table(native), *enter(namespace), keep=namespace)

    async def remove(self, pid: int) -> None:
        """Take the redirect away. Absent, or a process that is gone, is success."""
        try:
            with self._commands.network_of(pid) as namespace:
                self._check_not_ours(pid)
                await self._commands.change_tables(_empty()[:2], *enter(namespace), keep=namespace)
        except GoneError:
            return

    def _check_not_ours(self, pid: int) -> None:
        """A pid that was given out anew may be any process of the host."""
        network = self._commands.proc / f"{pid}/ns/net"
        hosts = (self._commands.proc / f"{process}/ns/net" for process in ("self", self._host_process) if process)
        if network.exists() and any(map(network.samefile, hosts)):
            raise RefusedError(
                f"process {pid} has the host's network: port {DATABASE_PORT} there is not a database's to redirect"
            )

    async def _target(self, namespace: int) -> int:
        """Where our redirect leads; 0 where it is missing or not as we write it."""
        found = await self._commands.list_table(FAMILY, TABLE, *enter(namespace), keep=namespace)
        rules = [_plain(item["rule"]) for item in found or () if "rule" in item]
        hooks = {item["chain"].get("hook") for item in found or () if "chain" in item}
        targets = {port for rule in rules if (port := _target_of(rule))}
        if len(rules) != len(HOOKS) or hooks != HOOKS.keys() or len(targets) != 1:
            return 0
        return targets.pop() if {rule["chain"] for rule in rules} == HOOKS.keys() else 0

    async def _listens(self, namespace: int) -> bool:
        words = ("ss", "-H", "-n", "-l", "-t", f"sport = :{DATABASE_PORT}")
        result = await self._commands.run(*enter(namespace), *words, keep=namespace)
        if result.status != 0:
            raise HostToolError(f"cannot list a database's listening sockets: {first_line(result.complaint)}")
        return bool(result.output.strip())


def _table(native: int) -> list[Object]:
    """The whole table anew, in one transaction. DNAT keeps the address that was asked for, and so what answers."""
    named = {"family": FAMILY, "table": TABLE}
    commands = _empty()
    for hook, priority in HOOKS.items():
        chain = {"name": hook, "type": "nat", "hook": hook, "prio": priority, "policy": "accept"}
        commands.append({"add": {"chain": {**named, **chain}}})
        commands.append({"add": {"rule": {**named, "chain": hook, "expr": _redirect(native)}}})
    return commands


def _empty() -> list[Object]:
    """Adding what is there already is success: so that deleting always is."""
    table = {"table": {"family": FAMILY, "name": TABLE}}
    return [{"add": table}, {"delete": table}, {"add": table}]


def _redirect(native: int) -> list[Object]:
    to_itself = {"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["daddr"]}}, "right": "local"}}
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": DATABASE_PORT}}
    return [to_itself, port, {"dnat": {"port": native}}]


def _plain(rule: Object) -> Object:
    return {key: value for key, value in rule.items() if key in ("chain", "expr")}


def _target_of(rule: Object) -> int:
    """The port that a rule of ours leads to; 0 for any other rule. nft versions print the first match in two ways."""
    match rule["expr"]:
        case [_, {"match": {"right": port}}, {"dnat": {"port": int(native)}}] if port == DATABASE_PORT:
            return native
        case _:
            return 0
