"""What changed between two moments, as events for people and pages: pure, by comparing what was seen.

An event says that something is so now. It never holds a password or a variable's value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sidegate.core.certificates import EXPIRES_SOON, Certificate, day
from sidegate.core.desired import Desired, is_ours
from sidegate.core.labels import END_A, END_B, Discovery
from sidegate.core.model import DatabaseDetails, EngineState, External, Intent, Problem, Rules
from sidegate.core.routes import SERVING, AppRoute
from sidegate.core.sessions import Listening, WorkerStatus


@dataclass(frozen=True, slots=True)
class Change:
    """One event to be: `subject` is whom or what it is about, `text` a sentence about it, `details` plain values."""

    kind: str
    subject: str
    text: str
    details: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Moment:
    """How things were: what the last pass saw, and what has been known besides.

    `engine_fault` is empty while the engine answers. `ended`: database -> why its external connection ended by itself.
    `logins`: database -> the outcome of the last login that was tried: ok, refused: why, or unknown: why.
    """

    desired: Desired = field(default_factory=lambda: Desired(Discovery({}, {})))
    state: EngineState = field(default_factory=EngineState)
    intent: Intent = field(default_factory=Intent)
    rules: Rules = field(default_factory=Rules)
    engine_fault: str = ""
    problems: tuple[Problem, ...] = ()
    failures: tuple[str, ...] = ()
    workers: tuple[WorkerStatus, ...] = ()
    listeners: Mapping[str, Listening] = field(default_factory=dict)
    ended: Mapping[str, str] = field(default_factory=dict)
    logins: Mapping[str, str] = field(default_factory=dict)


def first_changes(now: Moment) -> tuple[Change, ...]:
    """What is to be said of a moment before which nothing is known: what is wrong."""
    return (*_engine(Moment(), now), *_failures(Moment(), now), *_problems(Moment(), now))


def changes(before: Moment, now: Moment) -> tuple[Change, ...]:
    """What has become different, in an order that reads well: causes first."""
    found = [*_engine(before, now), *_workers(before, now), *_failures(before, now)]
    if before.desired is not now.desired or before.intent is not now.intent:
        found += [*_appeared(before, now), *_replicas(before, now), *_apps(before, now), *_domains(before, now)]
        found += [*_databases(before, now), *_connections(before, now), *_passwords(before, now)]
        found += _certificates(before, now)
    return (*found, *_logins(before, now), *_externals(before, now), *_problems(before, now))


# --- the node --------------------


def _engine(before: Moment, now: Moment) -> Iterator[Change]:
    if now.engine_fault and not before.engine_fault:
        yield Change("engine.lost", "engine", now.engine_fault)
    elif before.engine_fault and not now.engine_fault:
        yield Change("engine.back", "engine", "answers again")


def _workers(before: Moment, now: Moment) -> Iterator[Change]:
    known = {worker.slot: worker for worker in before.workers}
    for worker in now.workers:
        earlier = known.get(worker.slot)
        subject = f"worker {worker.slot}"
        if earlier is not None and earlier.pid and earlier.pid != worker.pid:
            yield Change("worker.died", subject, f"pid {earlier.pid} ended and is replaced", {"pid": earlier.pid})
        if worker.state == "serving" and (earlier is None or (earlier.pid, earlier.state) != (worker.pid, "serving")):
            details = {"pid": worker.pid, "restarts": worker.restarts}
            yield Change("worker.serving", subject, f"serves with pid {worker.pid}", details)


def _failures(before: Moment, now: Moment) -> Iterator[Change]:
    for failure in now.failures:
        if failure not in before.failures:
            yield Change("pass.failed", "sidegate", failure)


def _problems(before: Moment, now: Moment) -> Iterator[Change]:
    if before.problems is now.problems:
        return
    earlier, present = frozenset(before.problems), frozenset(now.problems)
    for problem in sorted(earlier - present):
        yield Change("problem.solved", problem.subject, problem.text)
    for problem in sorted(present - earlier):
        yield Change("problem.appeared", problem.subject, problem.text)


# --- apps --------------------


def _appeared(before: Moment, now: Moment) -> Iterator[Change]:
    for name in sorted(now.desired.routes.apps.keys() - before.desired.routes.apps.keys()):
        count = len(now.desired.discovery.containers(name))
        containers = "1 container" if count == 1 else f"{count} containers"
        yield Change("app.appeared", name, f"has {containers}", {"containers": count})


def _apps(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = before.desired.routes.apps, now.desired.routes.apps
    for name in sorted(earlier.keys() - present.keys()):
        yield Change("app.gone", name, "nothing of it runs, and nothing is known of it")
    for name in sorted(present):
        if earlier.get(name) != present[name]:
            yield from _availability(name, earlier.get(name), present[name])
        yield from _intended(name, before.intent, now.intent)


def _availability(name: str, before: AppRoute | None, now: AppRoute) -> Iterator[Change]:
    if now.unavailable and (before is None or before.unavailable != now.unavailable):
        yield Change("app.unavailable", name, f"takes no requests: {now.unavailable}", {"reason": now.unavailable})
    elif now.upstreams and (before is None or not before.upstreams):
        yield Change("app.available", name, "takes requests", {"serving": len(now.upstreams)})
    mode = before.mode if before else SERVING
    if mode != now.mode:
        yield Change("app.mode", name, f"is {now.mode}, was {mode}", {"mode": now.mode, "before": mode})


def _intended(name: str, before: Intent, now: Intent) -> Iterator[Change]:
    """What people said of an app: names and options, never values of variables."""
    if before is now:
        return
    options, then = now.options.get(name, {}), before.options.get(name, {})
    if options != then:
        said = [f"{option}={options[option]}" for option in sorted(options) if then.get(option) != options[option]]
        unset = sorted(then.keys() - options.keys())
        said += [f"{option} unset" for option in unset]
        yield Change("app.options", name, ", ".join(said), {"options": dict(sorted(options.items()))})
    variables, earlier = now.env.get(name, ()), before.env.get(name, ())
    if variables != earlier:
        keys = {v.key for v in {*variables} ^ {*earlier}}
        gone = sorted(keys - {v.key for v in variables})
        kept = sorted(keys - {*gone})
        parts = [f"set: {', '.join(kept)}"] * bool(kept) + [f"unset: {', '.join(gone)}"] * bool(gone)
        if parts:
            yield Change("app.variables", name, "; ".join(parts), {"set": kept, "unset": gone})


def _replicas(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = _standing(before.desired), _standing(now.desired)
    if earlier == present:
        return
    for id_ in sorted(earlier.keys() - present.keys()):
        app, name, _ = earlier[id_]
        yield Change("replica.gone", app, f"container {name} is gone", {"container": name})
    for id_, (app, name, why) in sorted(present.items()):
        if earlier.get(id_, ("", "", None))[2] == why:
            continue
        if why:
            text = f"container {name} takes no requests: {why}"
            yield Change("replica.resting", app, text, {"container": name, "reason": why})
        else:
            yield Change("replica.ready", app, f"container {name} takes requests", {"container": name})


def _standing(desired: Desired) -> dict[str, tuple[str, str, str]]:
    """Container id -> its app, its name, and why it takes no requests (empty: it does)."""
    taking = {u.id for route in desired.routes.apps.values() for u in route.upstreams}
    return {
        r.container.id: (
            name,
            r.container.name,
            "" if r.container.id in taking else desired.waiting.get(r.container.id, "waiting"),
        )
        for name, app in desired.discovery.apps.items()
        for r in app.replicas
    }


def _domains(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = before.desired.claims, now.desired.claims
    if earlier == present:
        return
    for domain in sorted(earlier.keys() | present.keys()):
        then, app = earlier.get(domain), present.get(domain)
        if then == app:
            continue
        if then:
            yield Change("domain.removed", then, f"does not answer at {domain} any more", {"domain": domain})
        if app:
            yield Change("domain.added", app, f"answers at {domain}", {"domain": domain})


# --- databases and connections --------------------


def _databases(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = before.desired.discovery.databases, now.desired.discovery.databases
    if earlier == present:
        return
    for name in sorted(earlier.keys() - present.keys()):
        gone = earlier[name].container.name
        yield Change("database.gone", name, f"container {gone} is gone", {"container": gone})
    for name in sorted(present):
        then, database = earlier.get(name), present[name]
        container, details = database.container, {"container": database.container.name, "engine": database.engine}
        if then is None:
            yield Change("database.seen", name, f"{database.engine}, in container {container.name}", details)
        if container.running and not (then and then.container.running):
            yield Change("database.up", name, f"container {container.name} runs", details)
        elif not container.running and (then is None or then.container.running):
            yield Change("database.down", name, f"container {container.name} is {container.state}", details)


def _logins(before: Moment, now: Moment) -> Iterator[Change]:
    for name, outcome in sorted(now.logins.items()):
        then = before.logins.get(name, "")
        if outcome.startswith("refused") and not then.startswith("refused"):
            yield Change("login.fault", name, outcome)
        elif outcome == "ok" and then.startswith("refused"):
            yield Change("login.ok", name, "takes its login again")


def _passwords(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = before.intent.databases, now.intent.databases
    if earlier is present:
        return
    for name in sorted(present):
        if earlier.get(name, DatabaseDetails()).password != present[name].password:
            yield Change("password.changed", name, "its password is another one now")


def _connections(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = _pairs(before), _pairs(now)
    for kind, text, pairs in (
        ("connection.cut", "are not connected any more", earlier.keys() - present.keys()),
        ("connection.made", "are connected", present.keys() - earlier.keys()),
    ):
        for a, b in sorted(pairs):
            network = present.get((a, b)) or earlier[a, b]
            yield Change(kind, a, f"{a} and {b} {text}", {"a": a, "b": b, "network": network})


def _pairs(moment: Moment) -> dict[tuple[str, str], str]:
    """The connections whose network is there, with its name: it is made last and goes last."""
    return {
        (network.labels[END_A], network.labels[END_B]): network.name
        for network in moment.state.networks
        if END_B in network.labels and END_A in network.labels and is_ours(network, moment.rules)
    }


def _externals(before: Moment, now: Moment) -> Iterator[Change]:
    earlier, present = before.listeners, now.listeners
    for name in sorted(earlier.keys() - present.keys()):
        port, why = earlier[name].gate.port, now.ended.get(name, "")
        kind = "external.off" if not why else "external.expired" if "time" in why else "external.idle-off"
        text = f"port {port} is closed" + (f": {why}" if why else ": it was switched off")
        yield Change(kind, name, text, {"port": port, "cause": why or "switched off"})
    for name in sorted(present):
        port, then_port = present[name].gate.port, earlier[name].gate.port if name in earlier else 0
        if port != then_port:
            text = f"listens on port {port}" + (f", no longer on {then_port}" if then_port else "")
            yield Change("external.on", name, text, {"port": port})
    if before.intent is now.intent:
        return
    for name, external in sorted(now.intent.externals.items()):
        then = before.intent.externals.get(name)
        said = list(_terms(then, external)) if then else []
        if said:
            yield Change("external.changed", name, "; ".join(said), {"port": external.port})


def _terms(before: External, now: External) -> Iterator[str]:
    """What is different of the terms of one that people may have changed, on or off."""
    for word, then, lines in (("allow", before.gate.allow, now.gate.allow), ("deny", before.gate.deny, now.gate.deny)):
        if added := [entry.cidr for entry in lines if entry not in then]:
            yield f"{word}: {', '.join(added)}"
        if removed := [entry.cidr for entry in then if entry.cidr not in {e.cidr for e in lines}]:
            yield f"no longer {word}: {', '.join(removed)}"
    if before.gate.local != now.gate.local:
        yield "this machine only" if now.gate.local else "not only this machine"
    if (before.gate.max_sessions, before.gate.max_new) != (now.gate.max_sessions, now.gate.max_new):
        yield f"limits per address: {now.gate.max_sessions} sessions, {now.gate.max_new} new ones in a second"
    if now.enabled and before.expires_at != now.expires_at:
        yield f"ends on {day(now.expires_at)}" if now.expires_at else "has no end"
    if now.enabled and before.idle_off != now.idle_off:
        yield f"turned off after {now.idle_off} s without a session" if now.idle_off else "stays on while idle"
    if before.forwarder != now.forwarder:
        yield f"forwarder: {now.forwarder or 'as the settings say'}"


# --- certificates --------------------


def _certificates(before: Moment, now: Moment) -> Iterator[Change]:
    if now.desired.certificates is None or before.desired.certificates is None:
        return
    earlier = {c.name: c for c in before.desired.certificates.state.files}
    state = now.desired.certificates.state
    present = {c.name: c for c in state.files}
    for name in sorted(earlier.keys() - present.keys()):
        yield Change("certificate.removed", name, "is not there any more", {"names": list(earlier[name].names)})
    for name, certificate in sorted(present.items()):
        then, names = earlier.get(name), list(certificate.names)
        if then is None or then.id != certificate.id:
            text = f"for {', '.join(names)}, until {day(certificate.not_after)}"
            yield Change("certificate.added", name, text, {"names": names, "expires": certificate.not_after})
        if _ends_soon(certificate, state.now) and not (
            then and then.id == certificate.id and _ends_soon(then, before.desired.certificates.state.now)
        ):
            text = f"ends on {day(certificate.not_after)}"
            yield Change("certificate.expiring", name, text, {"names": names, "expires": certificate.not_after})


def _ends_soon(certificate: Certificate, now: float) -> bool:
    return certificate.not_after - now < EXPIRES_SOON
