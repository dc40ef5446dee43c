import json
from dataclasses import replace

import pytest

from memory_daemon import PASSWORD, MemoryDaemon
from sidegate.api.apps import AppVerbs
from sidegate.api.schemas import AppRequest, AppView
from sidegate.core.model import Variable
from sidegate.core.routes import Policy, Routes
from sidegate.errors import DataPlaneError, InvalidInputError, NotFoundError, RefusedError


async def test_an_app_shows_its_replicas_urls_and_connections(daemon: MemoryDaemon) -> None:
    labels = {"sidegate.domains": "shop.example.com,*.shop.example,example.com/api", "sidegate.port": "9000"}
    daemon.app("shop", 1, labels=labels)
    daemon.app("shop", 2, health="starting")
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("shop", "shop-db", env=True)
    found = await daemon.commands.apps.show("shop")
    assert [(r.container, r.state, r.health, r.port) for r in found.replicas] == [
        ("shop-1", "running", None, 9000),
        ("shop-2", "running", "starting", 8080),
    ]
    assert (found.serving, found.unavailable) == (1, None)
    assert found.replicas[0].address == "172.17.0.2"
    assert found.replicas[1].address is None
    assert found.urls == [
        "http://shop.localhost:8080",
        "http://example.com:8080/api",
        "http://shop.example.com:8080",
    ]
    assert found.domains == ["*.shop.example", "example.com/api", "shop.example.com"]
    assert found.connections == ["shop-db"]
    assert "DB_HOST" in found.env
    assert await daemon.commands.apps.ls() == [found]


async def test_urls_name_https_where_there_is_tls_and_http_where_it_does_more_than_redirect(
    daemon: MemoryDaemon,
) -> None:
    daemon.app("shop", labels={"sidegate.domains": "shop.example/api"})
    await daemon.settled()
    tls = AppVerbs(replace(daemon.commands.apps.world, http_port=80, https_port=8443))
    assert (await tls.show("shop")).urls == [
        "http://shop.localhost",
        "https://shop.localhost:8443",
        "http://shop.example/api",
        "https://shop.example:8443/api",
    ]
    await tls.change("shop", change(https="redirect"))
    standard = AppVerbs(replace(tls.world, https_port=443))
    assert (await standard.show("shop")).urls == ["https://shop.localhost", "https://shop.example/api"]
    await tls.change("shop", change(https=None))


async def test_an_app_without_containers_is_listed_with_the_reason(daemon: MemoryDaemon) -> None:
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("later", "shop-db")
    (found,) = await daemon.commands.apps.ls()
    assert (found.name, found.replicas, found.unavailable) == ("later", [], "has no containers")


async def test_problems_of_an_app_are_those_of_its_containers(daemon: MemoryDaemon) -> None:
    daemon.app("shop", labels={"sidegate.prot": "1"})
    daemon.app("other", labels={"sidegate.helth": "/"})
    await daemon.settled()
    (problem,) = (await daemon.commands.apps.show("shop")).problems
    assert "did you mean sidegate.port?" in problem.text


async def test_an_unknown_app_is_refused_with_what_there_is(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    daemon.database("shop-db")
    await daemon.settled()
    with pytest.raises(NotFoundError, match=r"no app 'shopp': did you mean shop\? \(known: shop\)"):
        await daemon.commands.apps.show("shopp")
    with pytest.raises(NotFoundError, match="shop-db is a database"):
        await daemon.commands.env.ls("shop-db")
    daemon.engine.unavailable = "gone"
    await daemon.settled()
    with pytest.raises(NotFoundError, match="the Docker engine does not answer"):
        await daemon.commands.apps.show("other")


async def test_secret_values_are_hidden_unless_they_are_to_be_revealed(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("shop", "shop-db", env=True)
    listed = {v.key: v for v in (await daemon.commands.env.ls("shop")).variables}
    assert listed["DB_HOST"].value == "shop-db.internal"
    assert listed["DB_PASSWORD"].value is None
    assert listed["DB_CONNECTION_URL"].value is None
    revealed = {v.key: v.value for v in (await daemon.commands.env.ls("shop", reveal=True)).variables}
    assert revealed["DB_PASSWORD"] == PASSWORD
    assert (await daemon.commands.env.ls("shop", scope="build")).variables == []


async def test_an_export_has_the_stages_variables_and_the_port(daemon: MemoryDaemon) -> None:
    """R29."""
    daemon.app("shop", labels={"sidegate.port": "9000"})
    await daemon.settled()
    values = [Variable("A", "1", "runtime"), Variable("B", "2", "build"), Variable("C", "3", "both")]
    await daemon.store.set_variables("shop", values)
    export = daemon.commands.env.export
    assert json.loads(await export("shop", "json")) == {"A": "1", "C": "3", "PORT": "9000"}
    assert json.loads(await export("shop", "json", "build")) == {"B": "2", "C": "3", "PORT": "9000"}
    await daemon.store.set_variables("shop", [Variable("PORT", "7000")])
    assert json.loads(await export("shop", "json"))["PORT"] == "7000"


async def test_an_app_to_come_exports_the_port_it_will_have(daemon: MemoryDaemon) -> None:
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("later", "shop-db")
    assert await daemon.commands.env.export("later", "shell") == "export PORT='8080'\n"


async def test_exports_that_make_no_sense_are_refused(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("shop", "shop-db", env=True)
    with pytest.raises(InvalidInputError, match="dotenv, shell, json, docker or build-args"):
        await daemon.commands.env.export("shop", "yaml")
    with pytest.raises(InvalidInputError, match="build or runtime"):
        await daemon.commands.env.export("shop", "json", "both")
    with pytest.raises(RefusedError, match="DB_PASSWORD holds a line break"):
        await daemon.commands.env.export("shop", "docker")


# --- how an app is served --------------------


def change(mode: str | None = None, **options: str | None) -> AppRequest:
    return AppRequest(mode=mode, options={name.replace("_", "-"): value for name, value in options.items()})


def policy(daemon: MemoryDaemon, app: str = "shop") -> Policy:
    published = daemon.data_plane.published()
    assert published is not None
    return published.policies[published.apps[app].policy]


async def test_an_option_holds_when_the_call_returns_and_wins_over_the_label(daemon: MemoryDaemon) -> None:
    daemon.app("shop", labels={"sidegate.max-body": "1m", "sidegate.access-log": "off"})
    await daemon.settled()
    apps = daemon.commands.apps
    found = await apps.change("shop", change(max_body="2m", https="redirect"))
    assert [(o.name, o.value, o.source) for o in found.options] == [
        ("https", "redirect", "command"),
        ("max-body", "2m", "command"),
        ("access-log", "off", "label"),
    ]
    assert policy(daemon) == Policy(https_redirect=True, max_body=2 << 20, access_log=False)
    found = await apps.change("shop", change(max_body=None, https=None, hsts=None))
    assert [(o.name, o.source) for o in found.options] == [("max-body", "label"), ("access-log", "label")]
    assert policy(daemon) == Policy(max_body=1 << 20, access_log=False)
    assert daemon.store.intent.options == {}


async def test_pause_and_maintenance_replace_each_other_and_say_so(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    await daemon.settled()
    apps = daemon.commands.apps
    found = await apps.change("shop", change("paused"))
    assert (found.mode, found.notes, found.serving) == ("paused", [], 1)
    found = await apps.change("shop", change("maintenance"))
    assert (found.mode, found.notes) == (
        "maintenance",
        ["shop was paused: that is over, requests that waited get a 503"],
    )
    assert (await daemon.commands.node.status()).held == {"shop": "maintenance"}
    found = await apps.change("shop", change("paused"))
    assert found.notes == ["shop was in maintenance: that is over, requests wait now"]
    published = daemon.data_plane.published()
    assert published is not None
    assert published.apps["shop"].mode == "paused"
    found = await apps.change("shop", change("serving"))
    assert (found.mode, found.notes) == ("serving", [])
    assert (await apps.change("shop", change("serving"))).mode == "serving"
    assert daemon.store.intent.modes == {}


async def test_an_app_without_containers_can_be_put_into_maintenance(daemon: MemoryDaemon) -> None:
    container = daemon.app("shop", labels={"sidegate.domains": "shop.example"})
    await daemon.settled()
    daemon.engine.remove(container.id)
    found = await daemon.commands.apps.change("shop", change("maintenance"))
    assert (found.mode, found.unavailable) == ("maintenance", "has no containers")


async def test_modes_work_while_the_engine_is_away(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    await daemon.settled()
    daemon.engine.unavailable = "gone"
    await daemon.commands.apps.change("shop", change("maintenance"))
    published = daemon.data_plane.published()
    assert published is not None
    assert published.apps["shop"].mode == "maintenance"


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (change(), "nothing to change"),
        (change("asleep"), "mode 'asleep' is none of serving, paused, maintenance"),
        (change("paused", hsts="never"), "hsts: 'never' is not a time"),
        (change(colour="red"), "no option 'colour'"),
        (change(colour=None), "no option 'colour'"),
    ],
)
async def test_a_change_that_is_wrong_changes_nothing(daemon: MemoryDaemon, asked: AppRequest, fault: str) -> None:
    daemon.app("shop")
    await daemon.settled()
    before = daemon.store.intent
    with pytest.raises(InvalidInputError, match=fault):
        await daemon.commands.apps.change("shop", asked)
    with pytest.raises(NotFoundError):
        await daemon.commands.apps.change("nothing", change("paused"))
    assert daemon.store.intent == before


async def test_a_change_that_does_not_reach_the_workers_is_taken_back(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    await daemon.settled()
    apps = daemon.commands.apps
    await apps.change("shop", change("paused", hsts="1d"))
    before = daemon.store.intent

    async def fail(routes: Routes) -> int:
        raise DataPlaneError("worker 0 does not answer")

    publish, daemon.data_plane.publish = daemon.data_plane.publish, fail  # type: ignore[method-assign]
    with pytest.raises(DataPlaneError, match="worker 0"):
        await apps.change("shop", change("serving", hsts="2d", https="redirect"))
    assert daemon.store.intent == before
    daemon.data_plane.publish = publish  # type: ignore[method-assign]
    assert (await apps.change("shop", change("serving"))).mode == "serving"


async def test_a_replica_that_takes_no_requests_says_why(daemon: MemoryDaemon) -> None:
    labels = {"sidegate.health": "/healthz"}
    daemon.app("shop", 1, labels=labels)
    daemon.app("shop", 2, labels=labels)
    daemon.app("shop", 3, labels=labels)
    await daemon.settled()
    one, two, three = (daemon.engine.container(f"shop-{n}").id for n in (1, 2, 3))
    daemon.data_plane.verdicts = {one: "", two: "answered 500"}
    daemon.engine.kill(three, "SIGTERM")
    await daemon.settled()
    found = await daemon.commands.apps.show("shop")
    assert [(r.container, r.address is not None, r.fault) for r in found.replicas] == [
        ("shop-1", True, None),
        ("shop-2", False, "unhealthy: answered 500"),
        ("shop-3", False, "stopping"),
    ]
    assert "shop-2 takes no requests: unhealthy: answered 500" in [p.text for p in found.problems]


async def test_changes_are_audited_with_what_they_set(daemon: MemoryDaemon) -> None:
    daemon.app("shop")
    await daemon.settled()
    for body in (
        change("paused"),
        change("maintenance"),
        change("serving"),
        change(hsts="1d", max_body=None),
        change(hsts=None),
        change("paused", hsts="1d"),
    ):
        await daemon.call("PATCH", "/v1/apps/shop", AppView, body=body)
    with pytest.raises(InvalidInputError):
        await daemon.call("PATCH", "/v1/apps/shop", AppView, body=change(hsts="never"))
    with pytest.raises(InvalidInputError):
        await daemon.call("PATCH", "/v1/apps/shop", AppView, body=change(max_body=""))
    entries = [(e.verb, e.target, e.outcome) for e in reversed(await daemon.store.audit(10))]
    assert entries == [
        ("app pause", "shop", "done"),
        ("app maintenance", "shop", "done"),
        ("app resume", "shop", "done"),
        ("app set", "shop hsts=1d max-body", "done"),
        ("app unset", "shop hsts", "done"),
        ("app set", "shop mode=paused hsts=1d", "done"),
        ("app set", "shop hsts=never", "invalid"),
        ("app set", "shop max-body=", "invalid"),
    ]
