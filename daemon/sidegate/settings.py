"""The settings: one frozen value, read once at start from a TOML file and SIDEGATE_<KEY> variables (which win).

Everything wrong is reported at once. Never touches what a setting names: whether a directory can be written or a
user exists is for whoever uses it to find out.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from sidegate.core.model import DEFAULT_POOL, FORWARDERS, NAME_PATTERN, Rules, name_fault
from sidegate.core.routes import Policy
from sidegate.errors import SettingsError

DEFAULT_FILE = Path("/etc/sidegate/sidegate.toml")
VARIABLE_PREFIX = "SIDEGATE_"
# Ours, yet no settings: where the file is, and what scripts/ reads.
OTHER_VARIABLES = frozenset({"SIDEGATE_CONFIG", "SIDEGATE_NO_PULL"})

_PRIVATE = tuple(IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
_HOST_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_USER_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_UNIX_PATH_MAX = 107  # sun_path holds 108 bytes with its NUL (unix(7))


# --- one reader per kind of value: what TOML gave -> the setting, or ValueError with the reason --------------------


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text, in quotes")  # noqa: TRY004 (the reason is for people, never a traceback)
    if not value.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004
    return value


def _number(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError("must be a whole number")  # noqa: TRY004
        if not low <= value <= high:
            raise ValueError(f"must be between {low} and {high}")
        return value

    return read


def _directory(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():
        raise ValueError("must be an absolute path, beginning with /")
    return path


def _runtime_directory(value: object) -> Path:
    path = _directory(value)
    if len(os.fsencode(path / "control.sock")) > _UNIX_PATH_MAX:
        raise ValueError(f"is too long: a socket's path has {_UNIX_PATH_MAX} bytes at most, control.sock included")
    return path


def _optional_directory(value: object) -> Path | None:
    return _directory(value) if value != "" else None


def _log_file(value: object) -> str:
    text = _text(value)
    if text not in ("", "stderr") and not Path(text).is_absolute():
        raise ValueError('must be an absolute path, "stderr", or empty for none')
    return text


def _networks(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError('must be a list of networks such as ["10.0.0.0/8", "2001:db8::/32"]')
    try:
        return tuple(str(ip_network(item)) for item in value)
    except ValueError as error:
        raise ValueError(f"must hold networks such as 10.0.0.0/8: {error}") from None


def _app_or_none(value: object) -> str:
    name = _text(value)
    if name and (fault := name_fault(name)):
        raise ValueError(f"must be the name of an app: {fault}")
    return name


def _port_range(value: object) -> range:
    if not (match := _PORT_RANGE.fullmatch(_text(value))):
        raise ValueError('must be a range of ports such as "30000-30999"')
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ValueError("must begin with the lower port")
    if first < 1 or last > 65535:
        raise ValueError("must lie between 1 and 65535")
    return range(first, last + 1)


def _pool(value: object) -> IPv4Network:
    try:
        network = IPv4Network(_text(value))
    except ValueError as error:
        raise ValueError(f'must be an IPv4 network such as "10.213.0.0/16" ({error})') from None
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise ValueError(f"must lie in a private network: one of {', '.join(map(str, _PRIVATE))}")
    return network


def _host_name(value: object) -> str:
    name = _text(value).lower()
    # Longer, and "<app>.<base_domain>" would pass the 253 characters of RFC 1035.
    if len(name) > 200 or not _HOST_NAME.fullmatch(name):
        raise ValueError('must be a host name such as "apps.example.com"')
    return name


def _host(value: object) -> str:
    host = _text(value)
    if not host:
        return host
    try:
        return str(ip_address(host))
    except ValueError:
        return _host_name(host)


def _instance(value: object) -> str:
    name = _text(value)
    if len(name) > 20 or not NAME_PATTERN.fullmatch(name):
        raise ValueError("must be 1 to 20 of a-z, 0-9 and single dashes, beginning with a letter")
    return name


def _worker_user(value: object) -> str:
    name = _text(value)
    if not _USER_NAME.fullmatch(name):
        raise ValueError("must be the name of a user of this machine")
    if name in {"root", "sidegate", "docker"}:
        raise ValueError("must be a user of the workers' own: they read what strangers send")
    return name


def _listen_address(value: object) -> str:
    text = _text(value)
    if text and metrics_address(text) is None:
        raise ValueError('must be an address and a port such as "127.0.0.1:9913" or "[::1]:9913", or empty for none')
    return text


def metrics_address(text: str) -> tuple[str, int] | None:
    """Address and port of `metrics_listen`; None where it is empty, or neither."""
    host, _, port = text.rpartition(":")
    if ":" in host:
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else ""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        return None
    return str(address), int(port)


def _docker_host(value: object) -> str:
    address = _text(value)
    if address and not re.fullmatch(r"unix:///.+|(tcp|https?)://[^/]+(/.*)?", address):
        raise ValueError('must be "unix:///path" or "tcp://host:port"')
    return address


def _container(value: object) -> str:
    name = _text(value)
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name):
        raise ValueError('must be "auto", "none", or the name or id of a container')
    return name


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return _text(value)

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, how it is read, and its default. config/sidegate.toml says what each one is about."""

    state_dir: Annotated[Path, _directory] = Path("/var/lib/sidegate")
    runtime_dir: Annotated[Path, _runtime_directory] = Path("/run/sidegate")
    http_port: Annotated[int, _number(1, 65535)] = 80
    https_port: Annotated[int, _number(0, 65535)] = 443
    listen: Annotated[str, _choice("all", "loopback")] = "all"
    certificates: Annotated[Path | None, _optional_directory] = None
    external_ports: Annotated[range, _port_range] = range(30000, 31000)
    external_host: Annotated[str, _host] = ""
    forwarder: Annotated[str, _choice(*FORWARDERS)] = "auto"
    internal_pool: Annotated[IPv4Network, _pool] = DEFAULT_POOL
    internal_subnet: Annotated[int, _number(8, 29)] = 27
    base_domain: Annotated[str, _host_name] = "localhost"
    default_app: Annotated[str, _app_or_none] = ""
    trusted_proxies: Annotated[tuple[str, ...], _networks] = ()
    isolation: Annotated[str, _choice("bridge", "strict", "report")] = "bridge"
    trust_image_labels: Annotated[bool, _flag] = False
    workers: Annotated[int, _number(0, 256)] = 0
    worker_user: Annotated[str, _worker_user] = "sidegate-worker"
    docker_host: Annotated[str, _docker_host] = ""
    discover: Annotated[str, _choice("labels", "all")] = "labels"
    own_container: Annotated[str, _container] = "auto"
    instance: Annotated[str, _instance] = "sidegate"
    log_level: Annotated[str, _choice("debug", "info", "warning", "error")] = "info"
    resync_seconds: Annotated[int, _number(1, 3600)] = 30
    drain_seconds: Annotated[int, _number(0, 3600)] = 30
    rollout_seconds: Annotated[int, _number(1, 3600)] = 60
    header_seconds: Annotated[int, _number(1, 3600)] = 10
    idle_seconds: Annotated[int, _number(1, 86400)] = 75
    connect_seconds: Annotated[int, _number(1, 600)] = 5
    response_seconds: Annotated[int, _number(0, 86400)] = 60
    body_seconds: Annotated[int, _number(0, 86400)] = 60
    stall_seconds: Annotated[int, _number(1, 86400)] = 60
    websocket_idle_seconds: Annotated[int, _number(0, 86400)] = 0
    max_head_bytes: Annotated[int, _number(4096, 1048576)] = 65536
    max_target_bytes: Annotated[int, _number(1024, 1048576)] = 16384
    max_body_bytes: Annotated[int, _number(0, 1 << 50)] = 0
    max_connections: Annotated[int, _number(0, 10_000_000)] = 0
    max_connections_per_client: Annotated[int, _number(0, 10_000_000)] = 0
    pause_seconds: Annotated[int, _number(1, 3600)] = 60
    pause_requests: Annotated[int, _number(0, 1_000_000)] = 1000
    metrics_listen: Annotated[str, _listen_address] = ""
    access_log: Annotated[str, _log_file] = ""
    access_log_sample: Annotated[int, _number(1, 1_000_000)] = 1

    def rules(self) -> Rules:
        """What the core needs of them."""
        return Rules(
            instance=self.instance,
            base_domain=self.base_domain,
            isolation=self.isolation,
            trust_image_labels=self.trust_image_labels,
            pool=self.internal_pool,
            subnet_prefix=self.internal_subnet,
            policy=Policy(
                max_body=self.max_body_bytes,
                connect=self.connect_seconds,
                response=self.response_seconds,
                body=self.body_seconds,
                websocket_idle=self.websocket_idle_seconds,
            ),
            default_app=self.default_app,
            tls=bool(self.https_port),
            forwarder=self.forwarder,
            discover=self.discover,
            loopback=self.listen == "loopback",
        )


DEFAULTS = Settings()
_READERS: Mapping[str, Callable[[object], Any]] = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(Settings, include_extras=True).items()
}


@dataclass(frozen=True, slots=True)
class Key:
    """One setting as people write it: its `default` in TOML, and the `variable` that overrides it."""

    name: str
    default: str
    variable: str


def describe() -> tuple[Key, ...]:
    """All settings in their order; config/sidegate.toml and the docs are held to it."""
    return tuple(Key(name, _toml(getattr(DEFAULTS, name)), _variable(name)) for name in _READERS)


def load(path: Path | None, environ: Mapping[str, str], defaults: Settings = DEFAULTS) -> Settings:
    """Settings from the file at `path`, which must exist (None: DEFAULT_FILE, which may be absent), and `environ`.

    Raises SettingsError with one line per fault: the key, the value, where it came from and the reason.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    faults: list[str] = []

    def take(name: str, raw: object, source: str) -> None:
        sources[name] = f"{name} = {_show(raw)} (from {source})"
        try:
            values[name] = _READERS[name](raw)
        except ValueError as error:
            faults.append(f"{sources[name]}: {error}")

    def unknown(name: str, raw: object, source: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        faults.append(f"{name} = {_show(raw)} (from {source}): there is no such setting{hint}")

    by_variable = {_variable(name): name for name in _READERS}
    for name, raw in _read_file(path).items():
        if name not in _READERS:
            unknown(name, raw, str(path or DEFAULT_FILE), _READERS)
        elif _variable(name) not in environ:
            take(name, raw, str(path or DEFAULT_FILE))
    for variable, text in environ.items():
        if name := by_variable.get(variable, ""):
            take(name, _from_text(name, text), variable)
        elif variable.startswith(VARIABLE_PREFIX) and variable not in OTHER_VARIABLES:
            unknown(variable, text, "the environment", by_variable)
    if faults:
        raise SettingsError("\n".join(faults))

    settings = replace(defaults, **values)

    def shown(name: str) -> str:
        return sources.get(name) or f"{name} = {_toml(getattr(settings, name))} (the default)"

    # Two settings that are each right may still not go together.
    if settings.internal_pool.prefixlen > settings.internal_subnet:
        faults.append(f"{shown('internal_subnet')}: does not fit into {shown('internal_pool')}")
    for name in ("http_port", "https_port"):
        if getattr(settings, name) in settings.external_ports:
            faults.append(f"{shown(name)}: lies within {shown('external_ports')}")
    if settings.http_port == settings.https_port:
        faults.append(f"{shown('https_port')}: is {shown('http_port')} too; 0 turns TLS off")
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _read_file(path: Path | None) -> dict[str, Any]:
    file = path or DEFAULT_FILE
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if path is None:
            return {}
        raise SettingsError(f"{file}: there is no such file") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{file}: is not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: is not TOML: {error}") from None


def _from_text(name: str, text: str) -> object:
    """A variable's text as the file would have given it; what does not fit is left for the reader to refuse."""
    default = getattr(DEFAULTS, name)
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text, text)
    if isinstance(default, int) and re.fullmatch(r"-?[0-9]{1,16}", text):
        return int(text)
    if isinstance(default, tuple):
        return [item for word in text.strip("[] ").split(",") if (item := word.strip(' "'))]
    return text


def _variable(name: str) -> str:
    return VARIABLE_PREFIX + name.upper()


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, range):
        return f'"{value.start}-{value.stop - 1}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    if value is None:
        return '""'
    return str(value) if isinstance(value, int) else f'"{value}"'
