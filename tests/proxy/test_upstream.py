"""Routes made ready for a worker: which replica is asked, what a new snapshot keeps, who is shunned and how long."""

from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream
from sidegate.proxy.table import App, Table
from sidegate.proxy.upstream import Backend


def upstream(port: int, identity: str = "") -> Upstream:
    return Upstream(f"shop-{port}", "10.0.0.1", port, identity)


def routes(*ports: int, resting: tuple[int, ...] = ()) -> Routes:
    route = AppRoute(tuple(map(upstream, ports)), resting=tuple(map(upstream, resting)))
    return Routes({"a.test": (PathRoute("", "shop"),)}, {}, {"shop": route})


def chosen(app: App, tick: int = 0, tried: tuple[Backend, ...] = ()) -> int:
    backend = app.choose(tick, tried)
    assert backend is not None
    return backend.port


def test_the_replica_with_the_fewest_requests_in_flight_is_asked_and_ties_take_turns() -> None:
    app = Table(routes(1, 2, 3)).apps["shop"]
    assert sorted(chosen(app) for _ in range(6)) == [1, 1, 2, 2, 3, 3]
    for backend in app.backends[:2]:
        backend.active = 5
    assert {chosen(app) for _ in range(6)} == {3}


def test_turns_go_on_over_a_new_snapshot() -> None:
    table = Table(routes(1, 2, 3))
    seen = []
    for _ in range(6):
        seen.append(chosen(table.apps["shop"]))
        table = Table(routes(1, 2, 3), table)
    assert sorted(seen) == [1, 1, 2, 2, 3, 3]


def test_a_replica_that_failed_is_ejected_for_longer_each_time_and_forgiven_after_a_success() -> None:
    app = Table(routes(1, 2)).apps["shop"]
    failing = app.backends[0]
    app.backends[1].active = 100
    tick, spans = 10, []
    for _ in range(7):
        failing.failed(tick)
        failing.failed(tick)  # those that fail together count once
        back = tick
        while chosen(app, back) == 2:
            back += 1
        spans.append(back - tick - 1)
        tick = back
    assert spans == [1, 2, 4, 8, 16, 30, 30]
    failing.failed(tick)
    failing.recovered()
    assert chosen(app, tick) == 1
    failing.failed(tick)
    assert [chosen(app, tick + 1), chosen(app, tick + 2)] == [2, 1]


def test_when_all_are_ejected_the_first_to_return_is_asked() -> None:
    app = Table(routes(1, 2)).apps["shop"]
    app.backends[1].failed(10)
    for tick in (0, 5, 10):
        app.backends[0].failed(tick)
    assert {chosen(app, 10) for _ in range(4)} == {2}
    assert chosen(app, 10, (app.backends[1],)) == 1
    assert app.choose(10, tuple(app.backends)) is None


def test_an_app_that_is_alone_or_gone_has_one_choice_or_none() -> None:
    alone = Table(routes(1)).apps["shop"]
    assert (alone.only, chosen(alone)) == (alone.backends[0], 1)
    assert alone.choose(0, (alone.backends[0],)) is None
    gone = Table(routes()).apps["shop"]
    assert (gone.only, gone.choose(0)) == (None, None)


def test_a_new_snapshot_keeps_the_replicas_that_stay_and_retires_the_others() -> None:
    before = Table(routes(1, 2))
    before.backends["", "10.0.0.1", 1].active = 1
    after = Table(routes(2, 3), before, 7)
    assert after.backends["", "10.0.0.1", 2] is before.backends["", "10.0.0.1", 2]
    assert after.backends["", "10.0.0.1", 2].retired_at is None
    left = before.backends["", "10.0.0.1", 1]
    assert (left.retired_at, list(after.leaving.values())) == (7, [left])
    later = Table(routes(2), after, 9)
    assert (left.retired_at, list(later.leaving.values())) == (7, [left])
    back = Table(routes(1), later, 11)
    assert back.backends["", "10.0.0.1", 1] is left
    assert (left.retired_at, list(back.leaving)) == (None, [])


def test_a_resting_replica_takes_no_request_and_is_not_retired() -> None:
    before = Table(routes(1, 2))
    after = Table(routes(2, resting=(1,)), before)
    assert {chosen(after.apps["shop"]) for _ in range(4)} == {2}
    assert before.backends["", "10.0.0.1", 1].retired_at is None


def test_a_new_container_at_an_old_address_is_another_replica() -> None:
    def only(identity: str) -> Routes:
        return Routes(apps={"shop": AppRoute((upstream(1, identity),))})

    before = Table(only("a"))
    after = Table(only("b"), before)
    assert after.apps["shop"].only is not before.apps["shop"].only
    assert before.backends["a", "10.0.0.1", 1].retired_at == 0


def test_a_route_to_an_app_that_is_not_there_is_no_route() -> None:
    table = Table(Routes({"a.test": (PathRoute("", "gone"),)}))
    assert table.find("a.test", "/", local_client=True) == (None, "")


def test_the_default_app_answers_for_everything_else() -> None:
    table = Table(Routes(apps={"shop": AppRoute()}, default_app="shop"))
    assert table.find("a.test", "/", local_client=True)[0] is table.apps["shop"]
