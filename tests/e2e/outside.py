"""Another host and what it does to external connections: sockets made there, sessions of MariaDB, people who hammer."""

import contextlib
import ctypes
import errno
import os
import pty
import re
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import pymysql

from e2e import forms
from e2e.node import PASSWORD, Node, outside_host, run
from sidegate.api import schemas
from sidegate.api.client import Client, find_socket

T = TypeVar("T")
Connection: TypeAlias = "pymysql.Connection[pymysql.cursors.Cursor]"

GREETED, RESET, REFUSED, SILENT = "greeted", "reset", "refused", "silent"
"""What comes of a client: the database's greeting, a RST after it was accepted, a port that is closed, nothing."""

SECONDS = 5.0
DATABASE_PORT = 3306
_V6 = f"fd00:51:10{list(forms.LACKS).index(forms.FORM)}::"
_RETRY = 0.002
NET_V6 = f"{_V6}/64"
_OVER = {"CLOSE", "TIME_WAIT"}


_PLAIN: Mapping[str, Any] = {
    "allow": [],
    "deny": [],
    "local": False,
    "max_sessions": 0,
    "max_new": 0,
    "expires_in": "never",
    "idle_off": "never",
    "forwarder": "",
}


class Outside:
    """`here` and `here_v6` are this machine as the other host sees it; `there` are the other host's addresses, the
    first one what it uses unasked, and `there_v6` one of IPv6. `net` is the first three numbers of all of IPv4."""

    def __init__(self, name: str, prefix: str = "198.18.7", *, within: str = "") -> None:
        self.name, self.net = name, prefix
        self.here, self.here_v6 = f"{prefix}.1", f"{_V6}1"
        self.there = tuple(f"{prefix}.{number}" for number in range(2, 6))
        self.there_v6 = f"{_V6}2"
        self._made: list[Connection | socket.socket] = []
        self._inside = ThreadPoolExecutor(8, "outside", lambda: enter_namespace(name))
        for address in self.there[1:]:
            run("ip", "-n", name, "addr", "add", f"{address}/24", "dev", f"{name[:12]}i")
        here = ["ip", "-n", within] if within else ["ip"]
        for words, address, device in ((here, self.here_v6, "o"), (["ip", "-n", name], self.there_v6, "i")):
            run(*words, "addr", "add", f"{address}/64", "dev", f"{name[:12]}{device}", "nodad")

    @property
    def namespace(self) -> Path:
        return _named(self.name)

    def hang_up(self) -> None:
        """Close every connection that was made."""
        while self._made:
            with contextlib.suppress(pymysql.MySQLError):  # closed already
                self._made.pop().close()

    def close(self) -> None:
        self._inside.shutdown()

    def connect(self, port: int, source: str = "") -> socket.socket:
        """A connection from an address of that host. Raises OSError."""
        host = self.here_v6 if ":" in source else self.here
        sock = self._inside.submit(_connected, host, port, source).result()
        self._made.append(sock)
        return sock

    def attempt(self, port: int, source: str = "") -> str:
        """What comes of a client: see `GREETED`. It goes at once."""
        return _outcome(lambda: self.connect(port, source))

    def login(self, port: int, source: str = "") -> Connection:
        """A session of the user shop. Raises OSError or pymysql.MySQLError."""
        session = logged_in(self.connect(port, source))
        self._made.append(session)
        return session

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command there; it may fail."""
        return run("ip", "netns", "exec", self.name, *command, check=False, **options)

    def typed(self, command: str, secret: str) -> tuple[int, str]:
        """Paste a command line on that host's terminal and type the password when asked: exit status and output."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp("ip", ["ip", "netns", "exec", self.name, *shlex.split(command)])
        output = b""
        try:
            while b"password:" not in output.lower():
                output += os.read(terminal, 4096)
            os.write(terminal, secret.encode() + b"\n")
            while chunk := os.read(terminal, 4096):
                output += chunk
        except OSError:
            pass  # the terminal's other end has closed: the client is done
        finally:
            os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()


@contextlib.contextmanager
def another_host(name: str, prefix: str = "198.18.7", *, within: str = "") -> Iterator[Outside]:
    """Another host, as `outside_host` makes it."""
    with (
        outside_host(name, prefix=prefix, within=within),
        contextlib.closing(Outside(name, prefix, within=within)) as o,
    ):
        yield o


@contextlib.contextmanager
def living_in(namespace: Path) -> Iterator[None]:
    """This thread is in a network namespace for a while: the sockets that it makes are made there."""
    with Path("/proc/thread-self/ns/net").open() as own:
        _enter(namespace)
        try:
            yield
        finally:
            _set_namespace(own.fileno())


def enter_namespace(name: str) -> None:
    """This thread is there from now on: the sockets that it makes, the programs that it starts."""
    _enter(_named(name))


def _named(name: str) -> Path:
    return Path(f"/run/netns/{name}")


def _enter(namespace: Path) -> None:
    with namespace.open() as file:
        _set_namespace(file.fileno())


def _set_namespace(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _connected(host: str, port: int, source: str = "") -> socket.socket:
    return socket.create_connection((host, port), SECONDS, (source, 0) if source else None)


def attempt_here(host: str, port: int, source: str = "") -> str:
    """What comes of a client on this machine: see `GREETED`."""
    return _outcome(lambda: _connected(host, port, source))


def _outcome(connect: Callable[[], socket.socket]) -> str:
    try:
        with connect() as sock:
            return GREETED if sock.recv(1) else RESET
    except ConnectionRefusedError:
        return REFUSED
    except ConnectionError:  # also by connect(2), where the RST is fast
        return RESET
    except TimeoutError:
        return SILENT
    except OSError as error:
        if error.errno == errno.EHOSTUNREACH:  # forwarded to where nobody is any more
            return SILENT
        raise


def logged_in(sock: socket.socket, user: str = "shop", password: str = PASSWORD) -> Connection:
    """A session on a connection that is there. Raises OSError or pymysql.MySQLError, and then it is closed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session: Connection = pymysql.connect(
        host="-", user=user, password=password, read_timeout=SECONDS, autocommit=True, defer_connect=True
    )
    try:
        session.connect(sock)
    except BaseException:
        sock.close()
        raise
    return session


def ask(session: Connection, statement: str) -> Any:
    """The first value of a statement's answer."""
    with session.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row else None


def alive(session: Connection) -> bool:
    """Whether a session still answers."""
    try:
        return bool(ask(session, "SELECT 1"))
    except (pymysql.MySQLError, OSError):
        return False


class Switch:
    """The external connection of one database, on its control socket. Waits for nothing but the calls."""

    def __init__(self, node: Node, database: str) -> None:
        self.node = node
        self.database = database

    def on(self, **terms: Any) -> int:
        """Switch it on, on these terms and no others: see `ExternalRequest`. Returns its port."""
        shown = self.change(**{**_PLAIN, **terms})
        wanted = terms.get("forwarder")
        assert wanted in (None, "", shown.carrier), f"{wanted} does not carry it: {shown.carrier_reason}"
        assert shown.port is not None
        return shown.port

    def change(self, **terms: Any) -> schemas.ExternalView:
        """On, with some terms changed."""
        return self._put(schemas.ExternalRequest(enabled=True, **terms))

    def edit(self, **lines: Any) -> schemas.ExternalView:
        return self._call("PATCH", "external", schemas.ExternalView, body=schemas.ExternalEdit(**lines))

    def off(self) -> schemas.ExternalView:
        return self._put(schemas.ExternalRequest(enabled=False))

    def show(self) -> schemas.ExternalView:
        return self._call("GET", "external", schemas.ExternalView)

    def sessions(self) -> list[schemas.SessionView]:
        return self._call("GET", "sessions", list[schemas.SessionView])

    def kick(self, client: str) -> int:
        return self._call("DELETE", "sessions", schemas.Kicked, query={"client": client}).sessions

    def _put(self, body: schemas.ExternalRequest) -> schemas.ExternalView:
        return self._call("PUT", "external", schemas.ExternalView, body=body)

    def _call(self, method: str, what: str, result: type[T], **given: Any) -> T:
        client = Client(find_socket(None, self.node.environ))
        return client.call(method, f"/v1/databases/{self.database}/{what}", result, **given).value


# --- many at once --------------------


class Hammer:
    """Clients on another host who log in, ask something again and again, and log in again when they are thrown out."""

    def __init__(self, namespace: str, host: str, port: int, clients: int = 4, *, source: str = "") -> None:
        self._namespace = namespace
        self._from_to = host, port, source
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(clients)]
        self.first = threading.Event()
        """Somebody has logged in since this was cleared; `when` the server had greeted him."""
        self.when = 0.0
        self.inside = 0
        self.lost = 0
        """How many sessions were ended under their clients' hands."""
        self._lock = threading.Lock()

    def __enter__(self) -> "Hammer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        enter_namespace(self._namespace)  # this thread alone
        while not self._ended.is_set():
            with contextlib.suppress(pymysql.MySQLError, OSError):
                self._session()
            time.sleep(_RETRY)

    def _session(self) -> None:
        # What is refused shall cost little: it happens all the time, and this process takes the times as well.
        sock = _connected(*self._from_to)
        with contextlib.suppress(OSError):
            sock.recv(1, socket.MSG_PEEK)
        greeted = time.monotonic()
        with logged_in(sock) as session:
            with self._lock:
                self.inside += 1
                if not self.first.is_set():
                    self.when = greeted
                    self.first.set()
            try:
                with session.cursor() as cursor:
                    while not self._ended.wait(0.005):
                        cursor.execute("DO 0")
            except (pymysql.MySQLError, OSError):
                self.lost += 1
                raise
            finally:
                with self._lock:
                    self.inside -= 1


# --- what is left over --------------------


def traces(port: int, *, published: bool = False) -> dict[str, set[str]]:
    """What there is of a public port on this machine: rules, listening sockets, tracked connections. Of one that Docker
    publishes its own rules and docker-proxy are there all the time, and its translated connections linger."""
    word = re.compile(rf"(?<![0-9]){port}(?![0-9])")
    rules = run("nft", "list", "ruleset").stdout + run("iptables-save", "-t", "filter").stdout
    listed = run("ss", "-H", "-ltn", "sport", "=", f":{port}").stdout
    flows = run("conntrack", "-L", "-p", "tcp", "--dport", str(port)).stdout.splitlines()
    if published:
        return {"tracked connections": {flow for flow in flows if not _OVER & set(flow.split())}}
    return {
        "rules": {line.strip() for line in rules.splitlines() if word.search(line)},
        "ports": set(listed.splitlines()),
        "tracked connections": left_over_flows(flows),
    }


def left_over_flows(flows: Iterable[str]) -> set[str]:
    """Those of conntrack's lines that nobody will take away soon.

    A connection of a process of ours that was reset lingers some seconds, as anybody's does. One that the kernel
    forwards, whose answers come from another address than it was sent to, must be gone.
    """
    return {flow for flow in flows if _forwarded(flow) or not _OVER & set(flow.split())}


def _forwarded(flow: str) -> bool:
    addresses = re.findall(r"(?:src|dst)=(\S+)", flow)
    return addresses[:2] != addresses[3:1:-1]


SESSIONS = "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'shop' OR user = 'unauthenticated user'"
"""How many sessions of clients a MariaDB has, those that are still logging in too."""


@contextlib.contextmanager
def administrator(node: Node, container: str) -> Iterator[Callable[[str], Any]]:
    """Asks a MariaDB as root on one session: statement -> the first value of its answer. From within the container's
    network, where nobody takes it for a client of an external connection."""
    pid = node.docker("inspect", "-f", "{{.State.Pid}}", container)
    with living_in(Path(f"/proc/{pid}/ns/net")):
        sock = _connected("127.0.0.1", DATABASE_PORT)
    with logged_in(sock, "root", f"root-{PASSWORD}") as root:
        yield lambda statement: ask(root, statement)


def home_address(node: Node, database: str, container: str) -> str:
    """Where the database is on its home network."""
    networks = f'{{{{(index .NetworkSettings.Networks "{node.container(f"home--{database}")}").IPAddress}}}}'
    return node.docker("inspect", "-f", networks, container)
