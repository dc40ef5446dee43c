"""Builds of images: what is ordered, what the engine says, and why a build finds none of an app's connections.

Internal connections are there at run time and not during a build. A build that tries is told so: before it begins,
where a variable gives it an internal host, and after it failed, where its log shows that such a host was looked up.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from sidegate.core.model import External, Variable
from sidegate.errors import InvalidInputError

LAST_LINES = 12
LINE_MOST = 1 << 15  # characters; what has no line end by then is shown in parts
LOOKUPS_MOST = 100
MASK = "***"
MASKED_LEAST = 6  # characters: to hide shorter values would garble what the build says

TAG = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?"
)
"""Source: https://pkg.go.dev/github.com/distribution/reference; a digest cannot be built to."""

INTERNAL = re.compile(r"(?<![\w.-])([a-z](?:[a-z0-9]|-(?=[a-z0-9]))*)\.internal(?![\w-]|\.\w)", re.IGNORECASE)
"""A connection's name for its other end, wherever it stands, in a URL too."""

STEP = re.compile(r"Step (\d+)/(\d+) : (.+)")
OWN_WORDS = re.compile(r" ---> |Removing intermediate container |\[Warning\] One or more build-args")
"""What the engine says between the output of steps."""

ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]+[0-~]|[0-Z\\^-~])|\x9b[0-?]*[ -/]*[@-~]"
)
"""What terminals obey. Source: ECMA-48, 5.4 (CSI) and 8.3.89 (OSC, which xterm ends with BEL); ECMA-35, 13.2 (others,
such as the choice of a character set)."""

LOOKUP_FAILED = re.compile(
    "|".join(
        (
            r"unknown (?:mysql )?server host",
            r"could not translate host ?name",
            r"name or service not known",
            r"temporary failure in name resolution",
            r"name does not resolve",
            r"no address associated with (?:host ?)?name",
            r"nodename nor servname provided",
            r"name resolution failure",
            r"non-existing domain|nxdomain",
            r"no such host",
            r"server misbehaving",
            r"unknown host",
            r"unknownhostexception",
            r"\bENOTFOUND\b",
            r"\bEAI_(?:AGAIN|NONAME|NODATA)\b",
            r"bad address",
            r"could ?n[o']t resolve (?:host|proxy)",
            r"could not resolve (?:host|proxy)",
            r"unable to resolve host",
            r"failed to lookup address information",
            r"getaddrinfo(?: for \S+)? failed",
            r"gaierror",
            r"can't reach database server at",
        )
    ),
    re.IGNORECASE,
)
"""What the C library, the runtimes of languages and the clients of databases say where a name leads nowhere."""

NAMELESS = re.compile(
    r"gaierror: \[Errno -?\d+\]|socketerror|getaddrinfo failed|failed to lookup address information", re.IGNORECASE
)
NAMING = re.compile(r"(?:connection|connect) to |://|host |getaddrinfo for ", re.IGNORECASE)
"""Errors that leave out which name it was, and what shows that this one does not."""


@dataclass(frozen=True, slots=True)
class BuildOrder:
    """What to build and how. `arguments` go to the Dockerfile's ARGs; `pull`: fetch newer base images."""

    tag: str
    dockerfile: str = "Dockerfile"
    arguments: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_cache: bool = False
    pull: bool = False


@dataclass(frozen=True, slots=True)
class BuildLine:
    """A line of what the engine says; `image_id` comes with the one that names the image, `error` ends the build."""

    text: str = ""
    image_id: str = ""
    error: str = ""


def check_tag(tag: str) -> str:
    """Return `tag`, or raise InvalidInputError saying what one looks like."""
    if not TAG.fullmatch(tag) or len(tag) > 255:
        raise InvalidInputError(
            f"{tag!r} is not an image's name: use lower-case letters and digits, as in team/shop:1.2"
        )
    return tag if ":" in tag.rpartition("/")[2] else f"{tag}:latest"


# --- what a build says ---------------------------------------------------------------------------------------------


class BuildLog:
    """Makes lines of the pieces that a build's output comes in, and remembers what an explanation needs.

    `secrets` are values that it hides. Escape sequences go, and of a line that was rewritten only its last state stays.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        hidden = {line for value in secrets for line in value.splitlines() if len(line) >= MASKED_LEAST}
        hidden |= {quote(line, safe="") for line in hidden}  # as URLs have them
        self._secrets = sorted(hidden, key=len, reverse=True)
        self._rest = ""
        self.step = ""
        """The step that it is at, as "2/5 (RUN make)"; empty before the first."""
        self.failed_lookups: list[str] = []
        """Lines that say that a name was not found, secrets included: a URL that is one may be what names the host."""
        self.last: list[str] = []
        """The last LAST_LINES of the step that it is at."""

    def feed(self, text: str) -> list[str]:
        """The lines that are complete now."""
        *whole, self._rest = (self._rest + text).split("\n")
        if len(self._rest) > LINE_MOST:
            whole, self._rest = [*whole, self._rest], ""
        return [line for raw in whole if (line := self._take(raw))]

    def hide(self, text: str) -> str:
        """`text` without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return text

    def end(self) -> list[str]:
        """What came without a newline."""
        return self.feed("\n") if self._rest else []

    def _take(self, raw: str) -> str:
        clear = ESCAPES.sub("", raw.rstrip("\r").rpartition("\r")[2]).expandtabs().rstrip()
        line = self.hide(clear)
        if found := STEP.fullmatch(line):
            self.step, self.last = f"{found[1]}/{found[2]} ({found[3]})", []
        elif line and not OWN_WORDS.match(line):
            if len(self.failed_lookups) < LOOKUPS_MOST and LOOKUP_FAILED.search(clear):
                self.failed_lookups.append(clear)
            self.last = [*self.last[1 - LAST_LINES :], line]
        return line


# --- why it finds no connection ------------------------------------------------------------------------------------


def internal_hosts(values: Mapping[str, str], known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Of `known` apps and databases those whose internal name a build is given, and by which variables."""
    found: dict[str, list[str]] = {}
    for key, value in sorted(values.items()):
        names = {name.lower() for name in INTERNAL.findall(value)}
        names |= {name for name in known if _is_host(key, value, name)}
        for name in sorted(names & set(known)):
            found.setdefault(name, []).append(key)
    return {name: tuple(keys) for name, keys in found.items()}


def _is_host(key: str, value: str, name: str) -> bool:
    """Whether a value says the short name of a connection's other end, which an app has too."""
    in_url = re.search(rf"://(?:[^/@\s]*@)?{re.escape(name)}(?=(?::\d+)?(?:[/?#]|$))", value)
    return in_url is not None or (value == name and "HOST" in key.upper())


def looked_up(lines: Iterable[str], known: Collection[str], given: Collection[str]) -> str:
    """Of `known` apps and databases the one that a failed build looked for; empty where its log tells of none.

    `lines` say that some name was not found. Where they leave out which, it is the first of `given`, names that the
    build had from its variables.
    """
    names = "|".join(map(re.escape, sorted(known))) or "(?!)"
    short = re.compile(rf"(?:['\"`(@]|host:? |lookup |ENOTFOUND |EAI_AGAIN )({names})(?=['\"`:)\s,]|$)")
    for line in lines:
        for full in INTERNAL.findall(line):
            if full.lower() in known:
                return str(full.lower())
        if found := short.search(line):
            return found[1]
        if given and NAMELESS.search(line) and not NAMING.search(line):
            return min(given)
    return ""


def explanation(
    app: str,
    name: str,
    *,
    keys: Sequence[str] = (),
    ports: Sequence[str] = (),
    shared: Sequence[str] = (),
    database: bool,
    details: str = "",
) -> str:
    """Why a build does not reach `name`, and both ways round it.

    `keys` are the variables that hold its internal host, `ports` those with its internal port, `shared` those of both
    that are for run time as well. `details` are the host and port of its external connection where that is on.
    """
    host = f"{name}.internal"
    subject = f"{', '.join(keys)} {'leads' if len(keys) == 1 else 'lead'} to {host}," if keys else f"{host} is"
    cause = f"{subject} an internal connection, and those are there at run time only: no build can resolve or reach it"
    start = f"move the command that needs {name} to the start command of {app}, which runs with the connection"
    own = f"`sidegate env set {app} {' '.join(f'{key}=…' for key in (*keys, *ports) or ('DB_HOST',))} --scope build`"
    if shared:
        leave = " and ".join(f"`sidegate env rename {app} {key} --new-scope runtime`" for key in shared)
        own = f"{leave} leave the present one to run time, {own} sets that of the build"
    if not database:
        outside = f"give the build a variable with the public address of {name}"
    elif details:
        outside = f"give the build a variable of its own with the external details ({details}), {own}"
    else:
        on = f"`sidegate external on {name}`"
        outside = f"give the build a variable of its own with the external details, which {on} says: {own}"
    return f"{cause}. Two ways round it: {start}; or {outside}"


def closed_doors(values: Mapping[str, str], externals: Mapping[str, External], host: str) -> dict[str, tuple[str, ...]]:
    """Databases whose external details a build is given while their external connection is off, and by which variables.

    `host` is where external connections are. The details are host:port somewhere in a value, or a value of each.
    """
    found: dict[str, tuple[str, ...]] = {}
    hosts = [key for key, value in values.items() if value == host]
    for name, external in sorted(externals.items()):
        port = str(external.port)
        pair = re.compile(rf"(?<![\w.]){re.escape(host)}:{port}(?!\d)")
        keys = [key for key, value in values.items() if pair.search(value)]
        ports = [key for key, value in values.items() if value == port]
        if hosts and ports:
            keys += [*hosts, *ports]
        if keys and not external.enabled:
            found[name] = tuple(sorted(set(keys)))
    return found


def closed_door(name: str, keys: Sequence[str]) -> str:
    """The warning about one of `closed_doors`."""
    verb = "hold" if len(keys) > 1 else "holds"
    return (
        f"{', '.join(keys)} {verb} the external details of {name}, whose external connection is off: "
        f"this build cannot reach it before `sidegate external on {name}`"
    )


def arguments(variables: Iterable[Variable], given: Mapping[str, str]) -> dict[str, str]:
    """A build's arguments: the app's variables of scope build or both, and over them what was given for this build."""
    return {v.key: v.value for v in variables if v.scope in ("build", "both")} | dict(given)
