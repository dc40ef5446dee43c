import random
from dataclasses import replace
from typing import Any

import pytest

from sidegate.core.certificates import Assignment, Certificate, CertificateState, KeyPair
from sidegate.core.changes import Moment, changes, first_changes
from sidegate.core.desired import desire
from sidegate.core.gates import Entry, Gate
from sidegate.core.kinds import KINDS
from sidegate.core.model import (
    Container,
    DatabaseDetails,
    Deployment,
    Endpoint,
    EngineState,
    External,
    Intent,
    Pair,
    Problem,
    Rules,
    Variable,
)
from sidegate.core.sessions import Listening, WorkerStatus
from states import app, database, ours, state

DAY = 86400.0
HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
JOINT = ours("sidegate-shop--shop-db", "10.213.0.32/27", "shop", "shop-db")


def moment(*containers: Container, networks: tuple[Any, ...] = (), intent: Intent | None = None, **more: Any) -> Moment:
    """What a pass over these would see."""
    seen, asked = state(*containers, networks=networks), intent or Intent()
    health = more.pop("health", None)
    return Moment(desired=desire(asked, seen, Rules(), health=health), state=seen, intent=asked, **more)


def told(before: Moment, now: Moment) -> list[tuple[str, str, str]]:
    found = changes(before, now)
    assert {change.kind for change in found} <= KINDS.keys()
    return [(change.kind, change.subject, change.text) for change in found]


def kinds(before: Moment, now: Moment) -> list[str]:
    return [change.kind for change in changes(before, now)]


def test_nothing_is_said_where_nothing_changed() -> None:
    assert told(moment(app("shop"), database("shop-db")), moment(app("shop"), database("shop-db"))) == []


def test_an_app_comes_serves_and_goes() -> None:
    nothing, starting, serving = moment(), moment(app("shop", state="created", pid=0)), moment(app("shop"))
    assert told(nothing, starting) == [
        ("app.appeared", "shop", "has 1 container"),
        ("replica.resting", "shop", "container shop-1 takes no requests: starting"),
        ("app.unavailable", "shop", "takes no requests: starting"),
    ]
    assert told(starting, serving) == [
        ("replica.ready", "shop", "container shop-1 takes requests"),
        ("app.available", "shop", "takes requests"),
    ]
    assert told(serving, nothing) == [
        ("replica.gone", "shop", "container shop-1 is gone"),
        ("app.gone", "shop", "nothing of it runs, and nothing is known of it"),
    ]


def test_one_replica_of_two_rests_and_the_app_goes_on() -> None:
    both = moment(app("shop"), app("shop", 2))
    one = moment(app("shop"), app("shop", 2, health="unhealthy"))
    assert told(both, one)[0] == (
        "replica.resting",
        "shop",
        "container shop-2 takes no requests: unhealthy: the container's own health check fails",
    )
    assert "app.unavailable" not in kinds(both, one)
    assert kinds(both, one) == ["replica.resting"]
    assert kinds(one, both) == ["replica.ready"]


def test_an_app_that_is_known_without_containers_is_unavailable_not_gone() -> None:
    known = Intent(ports={"shop": 3000})
    assert told(moment(app("shop"), intent=known), moment(intent=known)) == [
        ("replica.gone", "shop", "container shop-1 is gone"),
        ("app.unavailable", "shop", "takes no requests: has no containers"),
    ]


def test_what_people_say_of_an_app_is_told_without_values_of_variables() -> None:
    before = moment(
        app("shop"),
        intent=Intent(
            options={"shop": {"https": "both", "health": "/a"}},
            env={"shop": (Variable("GONE", "secret-1"), Variable("STAYS", "secret-2"), Variable("OTHER", "secret-3"))},
        ),
    )
    now = moment(
        app("shop"),
        intent=Intent(
            modes={"shop": "paused"},
            options={"shop": {"https": "redirect"}},
            env={"shop": (Variable("STAYS", "secret-2"), Variable("OTHER", "secret-4"), Variable("NEW", "secret-5"))},
        ),
    )
    assert told(before, now) == [
        ("app.mode", "shop", "is paused, was serving"),
        ("app.options", "shop", "https=redirect, health unset"),
        ("app.variables", "shop", "set: NEW, OTHER; unset: GONE"),
    ]
    assert "secret" not in str(changes(before, now))


def test_a_connection_is_there_when_its_network_is() -> None:
    asked = Intent(connections=frozenset({Pair.of("shop", "shop-db")}))
    before = moment(app("shop"), database("shop-db"), networks=(HOME,))
    wanted = moment(app("shop"), database("shop-db"), networks=(HOME,), intent=asked)
    there = moment(app("shop"), database("shop-db"), networks=(HOME, JOINT), intent=asked)
    assert "connection.made" not in kinds(before, wanted)
    assert ("connection.made", "shop", "shop and shop-db are connected") in told(wanted, there)
    assert ("connection.cut", "shop", "shop and shop-db are not connected any more") in told(there, before)
    foreign = ours("other-a--b", "10.213.0.64/27", "a", "b", instance="other")
    assert kinds(before, replace(before, state=EngineState(before.state.containers, (HOME, foreign)))) == []


def test_a_database_comes_stops_and_goes() -> None:
    up, down = moment(database("shop-db")), moment(database("shop-db", state="exited", pid=0))
    assert told(moment(), up) == [
        ("database.seen", "shop-db", "mariadb, in container shop-db-1"),
        ("database.up", "shop-db", "container shop-db-1 runs"),
    ]
    assert told(up, down) == [("database.down", "shop-db", "container shop-db-1 is exited")]
    assert told(down, moment()) == [("database.gone", "shop-db", "container shop-db-1 is gone")]


def test_a_password_is_changed_and_never_told() -> None:
    before = moment(intent=Intent(databases={"shop-db": DatabaseDetails("shop", "old-secret")}))
    now = moment(intent=Intent(databases={"shop-db": DatabaseDetails("shop", "new-secret")}))
    assert told(before, now) == [("password.changed", "shop-db", "its password is another one now")]
    other = moment(intent=Intent(databases={"shop-db": DatabaseDetails("shopper", "new-secret")}))
    assert told(now, other) == []


def test_logins_that_fail_and_work_again() -> None:
    well = Moment(logins={"shop-db": "ok"})
    refused = Moment(logins={"shop-db": "refused: Access denied"})
    unknown = Moment(logins={"shop-db": "unknown: it has no container"})
    assert told(Moment(), well) == told(well, unknown) == told(unknown, well) == []
    assert told(well, refused) == [("login.fault", "shop-db", "refused: Access denied")]
    assert told(refused, well) == [("login.ok", "shop-db", "takes its login again")]


def listening(port: int = 30000) -> dict[str, Listening]:
    return {"shop-db": Listening(Gate(port))}


@pytest.mark.parametrize(
    ("why", "kind", "text"),
    [
        ("", "external.off", "port 30000 is closed: it was switched off"),
        ("its time is over", "external.expired", "port 30000 is closed: its time is over"),
        ("nobody has used it for 30 s", "external.idle-off", "port 30000 is closed: nobody has used it for 30 s"),
    ],
)
def test_an_external_connection_goes_on_and_off_with_its_cause(why: str, kind: str, text: str) -> None:
    on, off = Moment(listeners=listening()), Moment(ended={"shop-db": why} if why else {})
    assert told(Moment(), on) == [("external.on", "shop-db", "listens on port 30000")]
    assert told(on, off) == [(kind, "shop-db", text)]


def test_an_external_connection_that_moves_to_another_port_is_told_of() -> None:
    moved = Moment(listeners=listening(30001))
    assert told(Moment(listeners=listening()), moved) == [
        ("external.on", "shop-db", "listens on port 30001, no longer on 30000")
    ]
    assert told(moved, moved) == []


def test_terms_that_change_are_said() -> None:
    def terms(gate: Gate, **more: Any) -> Moment:
        return Moment(intent=Intent(externals={"shop-db": External(gate, True, **more)}), listeners=listening())

    before = terms(Gate(30000, allow=(Entry("192.0.2.0/24"), Entry("198.51.100.0/24", "the office"))))
    now = terms(
        Gate(30000, allow=(Entry("192.0.2.0/24"),), deny=(Entry("192.0.2.9/32"),), local=True, max_sessions=4),
        expires_at=86400.0,
        idle_off=60,
        forwarder="userspace",
    )
    ((kind, subject, text),) = told(before, now)
    assert (kind, subject) == ("external.changed", "shop-db")
    assert text == (
        "no longer allow: 198.51.100.0/24; deny: 192.0.2.9/32; this machine only; "
        "limits per address: 4 sessions, 0 new ones in a second; ends on 1970-01-02 00:00 UTC; "
        "turned off after 60 s without a session; forwarder: userspace"
    )
    used = Moment(
        intent=Intent(externals={"shop-db": replace(now.intent.externals["shop-db"], used_at=5.0)}),
        listeners=listening(),
    )
    assert told(now, used) == []


def test_domains_come_move_and_go() -> None:
    labels = {"sidegate.domains": "shop.example.com"}
    with_domain = moment(app("shop", labels=labels))
    assert ("domain.added", "shop", "answers at shop.example.com") in told(moment(), with_domain)
    without = moment(app("shop"), intent=Intent())
    assert told(with_domain, without) == [("domain.removed", "shop", "does not answer at shop.example.com any more")]
    moved = moment(app("blog", labels=labels))
    assert ("domain.added", "blog", "answers at shop.example.com") in told(with_domain, moved)


def certified(*certificates: Certificate, now: float = 0.0) -> Moment:
    assignment = Assignment(state=CertificateState(files=certificates, now=now))
    return Moment(desired=replace(Moment().desired, certificates=assignment))


def test_certificates_come_are_replaced_near_their_end_and_go() -> None:
    first = Certificate("1", "shop", ("shop.example",), "ca", 0.0, 90 * DAY, KeyPair("chain", "key-secret"))
    second = replace(first, id="2", not_after=180 * DAY)
    assert told(certified(), certified(first)) == [
        ("certificate.added", "shop", "for shop.example, until 1970-04-01 00:00 UTC")
    ]
    assert told(certified(first), certified(first, now=77 * DAY)) == [
        ("certificate.expiring", "shop", "ends on 1970-04-01 00:00 UTC")
    ]
    assert told(certified(first, now=77 * DAY), certified(first, now=78 * DAY)) == []
    assert kinds(certified(first, now=78 * DAY), certified(second, now=78 * DAY)) == ["certificate.added"]
    assert told(certified(second), certified()) == [("certificate.removed", "shop", "is not there any more")]
    assert told(certified(second), Moment()) == []  # TLS is off, or everything is being purged


def worker(pid: int, serving: bool = True, restarts: int = 0) -> Moment:
    return Moment(workers=(WorkerStatus(0, pid, "serving" if serving else "starting", 1, restarts),))


def test_workers_that_die_and_are_replaced() -> None:
    assert kinds(worker(10), worker(11, restarts=1)) == ["worker.died", "worker.serving"]
    assert kinds(worker(10), worker(11, serving=False)) == ["worker.died"]
    assert told(worker(11, serving=False), worker(11)) == [("worker.serving", "worker 0", "serves with pid 11")]
    assert told(worker(11), worker(11)) == []


def test_the_engine_is_lost_and_back() -> None:
    lost = Moment(engine_fault="it does not answer")
    assert told(Moment(), lost) == [("engine.lost", "engine", "it does not answer")]
    assert told(lost, Moment(engine_fault="another reason")) == []
    assert told(lost, Moment()) == [("engine.back", "engine", "answers again")]


def test_problems_and_failures_are_told_once() -> None:
    problem = Problem("shop", "is not well")
    bad = Moment(problems=(problem,), failures=("publish: it broke",))
    assert told(Moment(), bad) == [
        ("pass.failed", "sidegate", "publish: it broke"),
        ("problem.appeared", "shop", "is not well"),
    ]
    assert told(bad, bad) == []
    assert told(bad, Moment()) == [("problem.solved", "shop", "is not well")]


def test_of_a_first_moment_only_what_is_wrong_is_told() -> None:
    now = moment(app("shop"), database("shop-db"), engine_fault="gone", problems=(Problem("shop", "is not well"),))
    assert [change.kind for change in first_changes(now)] == ["engine.lost", "problem.appeared"]


def test_no_sequence_of_moments_breaks_it_and_what_is_told_adds_up() -> None:
    """Whatever comes and goes, apps that appeared less those that are gone are those that there are."""
    chance = random.Random(7)
    before, known = moment(), set[str]()
    for _ in range(300):
        containers = [
            app(name, number, **_fate(chance)) for name in ("a", "b", "c") for number in (1, 2) if chance.random() < 0.6
        ] + [database(name, **_fate(chance)) for name in ("x", "y") if chance.random() < 0.6]
        intent = Intent(
            env={"a": (Variable("KEY", chance.choice(["secret-a", "secret-b"])),)} if chance.random() < 0.5 else {},
            deployments={"b": Deployment("image")} if chance.random() < 0.5 else {},
            modes={"c": "paused"} if chance.random() < 0.3 else {},
        )
        now = moment(*containers, intent=intent)
        for change in changes(before, now):
            assert change.kind in KINDS
            assert change.text
            assert "secret" not in str(change)
            if change.kind == "app.appeared":
                known.add(change.subject)
            elif change.kind == "app.gone":
                known.remove(change.subject)
        assert known == now.desired.routes.apps.keys()
        before = now


def _fate(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.3:
        return {"state": "exited", "pid": 0, "endpoints": (Endpoint("bridge"),)}
    return {"health": chance.choice(["", "healthy", "unhealthy", "starting"])}
