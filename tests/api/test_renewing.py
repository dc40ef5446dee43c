"""`--redeploy` of connect and disconnect: over the socket and in process, beside an engine in memory."""

import asyncio
import json

import pytest

from memory_daemon import MemoryDaemon
from sidegate.api import schemas
from sidegate.api.schemas import ConnectRequest
from sidegate.core.model import Container, Variable
from sidegate.errors import EngineError, RefusedError, RolloutFailedError

KEYS = ["DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "DB_CONNECTION_URL"]


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    """An app with two replicas and a database, not connected."""
    daemon.database("shop-db")
    daemon.app("shop", 1)
    daemon.app("shop", 2)
    return await daemon.settled()


def replicas(node: MemoryDaemon, app: str) -> list[Container]:
    return [c for c in node.engine_containers() if c.labels.get("sidegate.app") == app and c.running]


async def test_the_app_runs_with_its_variables_when_connect_returns(node: MemoryDaemon) -> None:
    before = {container.id for container in replicas(node, "shop")}
    told: list[str] = []
    request = ConnectRequest(app="shop", target="shop-db", env=True, redeploy=True)
    done = await node.commands.connections.connect(request, told.append)
    assert done.redeployed == ["shop"]
    assert sorted(done.attached) == ["shop-1", "shop-2", "shop-db-1"]
    assert not [note for note in done.notes if "out of date" in note]
    after = replicas(node, "shop")
    assert len(after) == 2
    assert not before & {container.id for container in after}
    assert {container.env["DB_HOST"] for container in after} == {"shop-db.internal"}
    assert told[0].startswith("shop and shop-db are connected, and shop has DB_HOST, ")
    assert len(told) > 1  # how the rollout gets on


async def test_of_two_apps_the_one_that_got_variables_is_redeployed(node: MemoryDaemon) -> None:
    api = node.app("api")
    await node.settled()
    await node.store.set_variables("api", [Variable("LOG_LEVEL", "debug")])  # out of date, for another reason
    done = await node.connect("shop", "api", env=True, redeploy=True)
    assert done.redeployed == ["shop"]
    assert [container.id for container in replicas(node, "api")] == [api.id]


@pytest.mark.parametrize("options", [{}, {"env": True, "scope": "build"}])
async def test_without_a_change_nothing_is_redeployed_and_that_is_said(
    node: MemoryDaemon, options: dict[str, object]
) -> None:
    before = {container.id for container in replicas(node, "shop")}
    done = await node.connect("shop", "shop-db", redeploy=True, **options)
    assert done.redeployed == []
    assert "nothing had to be redeployed: the running containers of shop have its variables as they are" in done.notes
    assert {container.id for container in replicas(node, "shop")} == before


async def test_an_app_to_come_needs_no_redeploy(node: MemoryDaemon) -> None:
    done = await node.connect("later", "shop-db", env=True, redeploy=True)
    assert "nothing had to be redeployed: no container of later is running" in done.notes
    assert len(node.store.intent.env["later"]) == 6


async def test_containers_that_were_out_of_date_before_are_brought_up_to_date(node: MemoryDaemon) -> None:
    await node.store.set_variables("shop", [Variable("LOG_LEVEL", "debug")])
    done = await node.connect("shop", "shop-db", redeploy=True)
    assert done.redeployed == ["shop"]
    assert {container.env["LOG_LEVEL"] for container in replicas(node, "shop")} == {"debug"}


async def test_a_redeploy_that_is_refused_leaves_the_rest_and_says_what_to_run(node: MemoryDaemon) -> None:
    node.workloads.refusals["shop-1"] = "it was started with --rm"
    with pytest.raises(RefusedError) as caught:
        await node.connect("shop", "shop-db", env=True, redeploy=True)
    assert str(caught.value).startswith(
        f"shop and shop-db are connected, and shop has {', '.join(KEYS)}, and that stays; but shop was not redeployed "
        "(`sidegate app redeploy shop` tries again): container shop-1 cannot be made anew: it was started with --rm"
    )
    assert sorted(v.key for v in node.store.intent.env["shop"]) == sorted(KEYS)
    (connection,) = await node.commands.connections.ls()
    assert connection.state == "up"
    node.workloads.refusals.clear()
    await node.commands.deployments.redeploy("shop")
    assert {container.env["DB_HOST"] for container in replicas(node, "shop")} == {"shop-db.internal"}


async def test_a_rollout_that_fails_keeps_its_status_and_the_old_ones_serve(node: MemoryDaemon) -> None:
    before = {container.id for container in replicas(node, "shop")}
    node.workloads.fail_next["start"] = EngineError("exec: no such file")
    result = await node.sidegate("connect", "shop", "shop-db", "--env", "--redeploy")
    assert result.returncode == RolloutFailedError.exit_status, result.stderr
    assert "that stays; but shop was not redeployed (`sidegate app redeploy shop` tries again)" in result.stderr
    assert "no such file" in result.stderr
    assert {container.id for container in replicas(node, "shop")} == before
    assert len(node.store.intent.env["shop"]) == 6
    entries = await node.commands.node.audit()
    assert (entries[0].target, entries[0].outcome) == ("shop shop-db --redeploy", "rollout-failed")


async def test_the_command_line_shows_how_it_gets_on(node: MemoryDaemon) -> None:
    done = await node.sidegate("connect", "shop", "shop-db", "--env", "--redeploy", "--table")
    assert done.returncode == 0, done.stderr
    assert "added to shop: DB_HOST, " in done.stdout
    assert "redeployed: shop\n" in done.stdout
    assert "shop is being redeployed" in done.stderr
    gone = await node.sidegate("disconnect", "shop", "shop-db", "--yes", "--redeploy", "--table")
    assert gone.returncode == 0, gone.stderr
    assert "redeployed: shop\n" in gone.stdout
    entries = await node.commands.node.audit()
    assert [entry.target for entry in entries] == ["shop shop-db --redeploy"] * 2


async def test_disconnect_redeploys_whoever_lost_variables(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True, redeploy=True)
    done = await node.commands.connections.disconnect("shop-db", "shop", redeploy=True)
    assert (done.redeployed, done.variables_removed) == (["shop"], sorted(KEYS))
    assert not [note for note in done.notes if "out of date" in note]
    assert not any("DB_HOST" in container.env for container in replicas(node, "shop"))


@pytest.mark.parametrize("env", [True, False])
async def test_disconnect_redeploys_nobody_who_lost_none(node: MemoryDaemon, env: bool) -> None:
    await node.connect("shop", "shop-db", env=env)
    before = {container.id for container in replicas(node, "shop")}
    done = await node.sidegate("disconnect", "shop", "shop-db", "--yes", "--keep-env", "--redeploy", "--json")
    answer = json.loads(done.stdout)
    assert answer["redeployed"] == []
    assert "nothing had to be redeployed: no variables were removed" in answer["notes"]
    assert {container.id for container in replicas(node, "shop")} == before


async def test_a_redeploy_after_disconnect_that_fails_leaves_them_parted(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True, redeploy=True)
    node.workloads.refusals["shop-1"] = "it was started with --rm"
    with pytest.raises(RefusedError, match=r"no longer connected, and DB_.* removed, and that stays; but shop was not"):
        await node.commands.connections.disconnect("shop", "shop-db", redeploy=True)
    assert not node.store.intent.connections
    assert not node.store.intent.env.get("shop")


async def test_what_is_done_about_the_containers_already_ends_first(node: MemoryDaemon) -> None:
    redeploying = node.rollouts.carry_out
    await node.store.set_variables("shop", [Variable("LOG_LEVEL", "debug")])
    waited: list[str] = []
    node.rollouts.under_way = lambda app: "" if waited else "1 of 2"  # type: ignore[method-assign]

    async def carry_out(app: str, progress: object) -> None:
        if not waited:
            waited.append(app)
            return
        await redeploying(app, progress)  # type: ignore[arg-type]

    node.rollouts.carry_out = carry_out  # type: ignore[method-assign]
    done = await node.connect("shop", "shop-db", env=True, redeploy=True)
    assert (waited, done.redeployed) == (["shop"], ["shop"])


async def test_containers_that_are_just_being_made_count(node: MemoryDaemon) -> None:
    """Of an app that stops before it starts anew none runs for a while."""
    redeploying = node.rollouts.carry_out
    made: list[Container] = []
    node.rollouts.under_way = lambda app: "" if made else "0 of 1"  # type: ignore[method-assign]

    async def carry_out(app: str, progress: object) -> None:
        if made:
            await redeploying(app, progress)  # type: ignore[arg-type]
        else:
            made.append(node.app(app))
            await node.settled()

    node.rollouts.carry_out = carry_out  # type: ignore[method-assign]
    done = await node.connect("later", "shop-db", env=True, redeploy=True)
    assert done.redeployed == ["later"]
    assert all("DB_HOST" in container.env for container in replicas(node, "later"))


async def test_several_at_once_have_all_their_variables_in_the_end(node: MemoryDaemon) -> None:
    names = [f"db-{number}" for number in range(4)]
    for name in names:
        node.database(name)
    await node.settled()
    renames = [{key: f"{key}_{number}" for key in KEYS} for number in range(4)]
    done = await asyncio.gather(
        *(
            node.connect("shop", name, env=True, renames=renamed, redeploy=True)
            for name, renamed in zip(names, renames, strict=True)
        )
    )
    assert [each.redeployed for each in done] == [["shop"]] * 4
    wanted = {name for renamed in renames for name in renamed.values()}
    assert all(wanted <= container.env.keys() for container in replicas(node, "shop"))


async def test_over_the_socket_it_is_a_field_and_a_parameter(node: MemoryDaemon) -> None:
    body = ConnectRequest(app="shop", target="shop-db", env=True, redeploy=True)
    made = await node.call("POST", "/v1/connections", schemas.Connected, body=body)
    assert made.redeployed == ["shop"]
    path = "/v1/connections/shop/shop-db"
    gone = await node.call("DELETE", path, schemas.Disconnected, query={"redeploy": "true"})
    assert gone.redeployed == ["shop"]
