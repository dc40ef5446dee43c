"""Routes made ready for a worker: which replica is asked, and what a new snapshot keeps."""

from sidegate.core.routes import AppRoute, PathRoute, Routes, Upstream
from sidegate.proxy.upstream import Table


def routes(*ports: int) -> Routes:
    upstreams = tuple(Upstream(f"shop-{port}", "10.0.0.1", port) for port in ports)
    return Routes({"a.test": (PathRoute("", "shop"),)}, {}, {"shop": AppRoute(upstreams)})


def test_the_replica_with_the_fewest_requests_in_flight_is_asked_and_ties_take_turns() -> None:
    app = Table(routes(1, 2, 3)).apps["shop"]
    first = [app.choices(0)[0].port for _ in range(6)]
    assert sorted(first) == [1, 1, 2, 2, 3, 3]
    for backend in app.backends[:2]:
        backend.active = 5
    assert {app.choices(0)[0].port for _ in range(6)} == {3}


def test_a_replica_that_just_failed_is_asked_last_for_a_second() -> None:
    app = Table(routes(1, 2)).apps["shop"]
    app.backends[0].failed_at = 10
    app.backends[1].active = 100
    assert [backend.port for backend in app.choices(11)] == [2, 1]
    assert [backend.port for backend in app.choices(12)] == [1, 2]


def test_a_new_snapshot_keeps_the_replicas_that_stay_and_retires_the_others() -> None:
    before = Table(routes(1, 2))
    after = Table(routes(2, 3), before)
    assert after.backends["10.0.0.1", 2] is before.backends["10.0.0.1", 2]
    assert before.backends["10.0.0.1", 1].retired
    assert not after.backends["10.0.0.1", 2].retired


def test_a_route_to_an_app_that_is_not_there_is_no_route() -> None:
    table = Table(Routes({"a.test": (PathRoute("", "gone"),)}))
    assert table.find("a.test", "/", local_client=True) is None
