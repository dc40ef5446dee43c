"""Which certificate answers for which name. Values and choice only: nothing here reads a file or signs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sidegate.core.model import Problem
from sidegate.core.routes import Routes

EXPIRES_SOON = 14 * 86400.0
"""Seconds before its end from which on a certificate is a problem: whatever should have renewed it has not."""

DEFAULT_LEAF = ""
"""The authority's leaf for clients that name no host, or one that nothing is routed to."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain, leaf first, and its private key, both PEM. Never printed: the repr leaves the key out."""

    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """What workers present. `hosts`: exact host -> an id; `wildcards`: the suffix after "*", with its dot -> an id.

    `pairs`: id -> key pair; an id never stands for two pairs. `default` is presented where the client names no host or
    one without a certificate. `ticket_key` is 80 random bytes in hex that all workers seal session tickets with.
    """

    hosts: Mapping[str, str] = field(default_factory=dict)
    wildcards: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, KeyPair] = field(default_factory=dict)
    default: str = ""
    ticket_key: str = field(default="", repr=False)


def choose(certificates: CertificateSet, host: str) -> str:
    """The id for `host` (lower case, no trailing dot, or empty): exact, then the longest wildcard, then the default."""
    found = certificates.hosts.get(host)
    if found is not None:
        return found
    dot = host.find(".")
    while dot != -1:
        found = certificates.wildcards.get(host[dot:])
        if found is not None:
            return found
        dot = host.find(".", dot + 1)
    return certificates.default


@dataclass(frozen=True, slots=True)
class Certificate:
    """A key pair at hand and what its leaf says: `names` as they stand in it, lower case; Unix times in seconds.

    `name` is what people call it: that of its file without the ending; empty: it is the local authority's.
    """

    id: str
    name: str
    names: tuple[str, ...]
    issuer: str
    not_before: float
    not_after: float
    pair: KeyPair

    def valid(self, now: float) -> bool:
        return self.not_before <= now < self.not_after


@dataclass(frozen=True, slots=True)
class CertificateState:
    """The certificates there are. `issued`: host, "*.suffix" or DEFAULT_LEAF -> the local authority's leaf for it.

    `due`: those of them to be issued again; `issuing`: it is at work; `fault` says why it cannot. `problems` are
    those of files; `now` is when this was so.
    """

    files: tuple[Certificate, ...] = ()
    issued: Mapping[str, Certificate] = field(default_factory=dict)
    due: frozenset[str] = frozenset()
    issuing: bool = False
    fault: str = ""
    problems: tuple[Problem, ...] = ()
    ticket_key: str = field(default="", repr=False)
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Who gets what. `missing`: names that the local authority has yet to issue for; `used`: certificate id -> the
    routed names that it answers for."""

    presented: CertificateSet = field(default_factory=CertificateSet)
    missing: tuple[str, ...] = ()
    used: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    state: CertificateState = field(default_factory=CertificateState)
    problems: tuple[Problem, ...] = ()


def assign(routes: Routes, state: CertificateState) -> Assignment:
    """A certificate for every routed name: of the files where one covers it, else the local authority's.

    A valid one goes before one that is not, then one that bears the name before a wildcard, then the one that lasts
    longest. Names of files that nothing is routed to are presented too.
    """
    ranked = sorted(state.files, key=lambda c: (c.valid(state.now), c.not_after, c.id))  # the last one of a name wins
    by_name = {name: certificate for certificate in ranked for name in certificate.names}
    hosts: dict[str, str] = {}
    wildcards: dict[str, str] = {}
    chosen: dict[str, Certificate] = {}
    used: dict[str, list[str]] = {}
    missing: list[str] = []
    for name in sorted({*by_name, *routes.hosts, *(f"*{suffix}" for suffix in routes.wildcards)}):
        found = _covering(name, by_name, state.now) if by_name else None
        if found is None:
            found = state.issued.get(name)
            if found is None or name in state.due:
                missing.append(name)
            if found is None:
                continue
        chosen[found.id] = found
        table, key = (wildcards, name[1:]) if name.startswith("*.") else (hosts, name)
        table[key] = found.id
        if key in (routes.wildcards if table is wildcards else routes.hosts):
            used.setdefault(found.id, []).append(name)
    default = state.issued.get(DEFAULT_LEAF) or next(iter(chosen.values()), None)
    if DEFAULT_LEAF not in state.issued or DEFAULT_LEAF in state.due:
        missing.append(DEFAULT_LEAF)
    if default is not None:
        chosen[default.id] = default
    presented = CertificateSet(
        hosts,
        wildcards,
        {id_: certificate.pair for id_, certificate in chosen.items()},
        default.id if default else "",
        state.ticket_key,
    )
    problems = [*state.problems, *_ages(chosen.values(), state.now)]
    if state.fault:
        problems.append(Problem("certificates", state.fault))
    return Assignment(
        presented, tuple(missing), {id_: tuple(names) for id_, names in used.items()}, state, tuple(problems)
    )


def _covering(name: str, by_name: Mapping[str, Certificate], now: float) -> Certificate | None:
    """The certificate of a file for `name`. A wildcard stands for one label (RFC 6125 section 6.4.3)."""
    exact = by_name.get(name)
    if exact is not None and exact.valid(now):
        return exact
    _, dot, rest = name.partition(".")
    wildcard = by_name.get(f"*.{rest}") if dot and not name.startswith("*.") else None
    if wildcard is not None and (exact is None or wildcard.valid(now)):
        return wildcard
    return exact


def _ages(chosen: Iterable[Certificate], now: float) -> Iterable[Problem]:
    """Of files that are in use; the local authority renews its own."""
    for certificate in chosen:
        if not certificate.name:
            continue
        subject = f"certificate {certificate.name}"
        if certificate.not_after <= now:
            text = f"expired on {day(certificate.not_after)}: clients refuse it; put a new one in its place"
        elif certificate.not_before > now:
            text = f"is not valid before {day(certificate.not_before)}: check this machine's clock"
        elif certificate.not_after - now < EXPIRES_SOON:
            text = f"expires on {day(certificate.not_after)}: see that what renews it runs"
        else:
            continue
        yield Problem(subject, text)


def day(at: float) -> str:
    """A Unix time for a sentence."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
