"""Deploying, redeploying and removing apps through the control API, and what is refused before anything is written."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE

import pytest

from memory_daemon import MemoryDaemon
from sidegate.api import schemas
from sidegate.core.model import Variable
from sidegate.core.workloads import ImageInfo
from sidegate.errors import (
    FixedPortError,
    InvalidInputError,
    KeyClashError,
    NotFoundError,
    RefusedError,
    RolloutFailedError,
    SidegateError,
)


@pytest.fixture
def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.workloads.images["shop:1"] = ImageInfo("sha256:1")
    daemon.workloads.images["shop:2"] = ImageInfo("sha256:2")
    return daemon


async def deploy(node: MemoryDaemon, app: str = "shop", image: str = "shop:1", **asked: object) -> schemas.AppView:
    return await node.commands.deployments.deploy(app, schemas.DeployRequest(image=image, **asked))  # type: ignore[arg-type]


def names(node: MemoryDaemon) -> list[str]:
    return sorted(c.name for c in node.loop.last.state.containers)


async def test_deploy_gives_port_variables_domains_and_a_network_of_its_own(node: MemoryDaemon) -> None:
    """R26, R29."""
    found = await deploy(
        node, replicas=2, port=5000, domains=["Shop.Example.com"], variables={"A": "x $y"}, dotenv="B='q'\n"
    )
    assert [r.container for r in found.replicas] == ["sidegate-shop-1", "sidegate-shop-2"]
    assert (found.serving, found.port, found.domains, found.env) == (2, 5000, ["shop.example.com"], ["A", "B"])
    assert found.deployment is not None
    assert (found.deployment.image, found.deployment.replicas, found.rollout) == ("shop:1", 2, None)
    container = node.engine.container("sidegate-shop-1")
    assert dict(container.env) == {"A": "x $y", "B": "q", "PORT": "5000"}
    assert node.store.intent.env["shop"] == (Variable("A", "x $y"), Variable("B", "q"))


async def test_what_is_left_out_stays(node: MemoryDaemon) -> None:
    await deploy(node, replicas=2, port=5000, command=["serve"], domains=["a.example.com"])
    found = await deploy(node, image="shop:2")
    assert found.deployment is not None
    assert (found.deployment.replicas, found.port, found.deployment.command) == (2, 5000, ["serve"])
    assert found.domains == ["a.example.com"]
    emptied = (await deploy(node, image="shop:2", command=[])).deployment
    assert emptied and emptied.command == []


async def test_the_port_of_an_image_that_exposes_one(node: MemoryDaemon) -> None:
    node.workloads.images["web:1"] = ImageInfo("sha256:3", exposed_ports=(80,))
    assert (await deploy(node, "web", "web:1")).port == 80
    assert (await deploy(node)).port == 8080


async def test_an_image_that_is_not_here_is_fetched(node: MemoryDaemon) -> None:
    told: list[str] = []
    await node.commands.deployments.deploy("far", schemas.DeployRequest(image="far:1"), told.append)
    assert told[0] == "fetching far:1, which this node does not have"
    node.workloads.fail_next["pull"] = NotFoundError("no such repository")
    with pytest.raises(NotFoundError, match=r"no image away:1 on this node.*no such repository"):
        await deploy(node, "away", "away:1")
    with pytest.raises(NotFoundError, match="there is no image sha256:a"):
        await deploy(node, "away", "sha256:" + "a" * 64)
    assert [call for call in node.workloads.calls if call.startswith("pull")] == ["pull far:1", "pull away:1"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"image": "Shop:1"}, "names are lower case: shop:1"),
        ({"image": "shop 1"}, "is not an image"),
        ({"port": 0}, "port 0 is not a port"),
        ({"port": 65536}, "1 to 65535"),
        ({"replicas": 0}, "use a number from 1 to 14"),
        ({"replicas": 17}, "use a number from 1 to 14"),
        ({"domains": ["a b", "ok.example.com", "-x"]}, "'a b', '-x' are not a domain"),
        ({"variables": {"1A": "x"}}, "'1A' is not a variable's name"),
        ({"variables": {"A": "x"}, "dotenv": "A=y"}, "A is given twice"),
        ({"dotenv": "A"}, "line 1 is not KEY=VALUE"),
        ({"health": "nowhere"}, "health: 'nowhere' is not"),
        ({"command": ["", "x"]}, "begins with an empty word"),
    ],
)
async def test_what_can_never_be_right(node: MemoryDaemon, asked: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidInputError, match=why):
        await deploy(node, **{"image": "shop:1", **asked})  # type: ignore[arg-type]
    assert node.store.intent.deployments == {}


async def test_names_that_cannot_be_deployed(node: MemoryDaemon) -> None:
    node.app("web")
    node.database("shop-db")
    node.engine.run("sidegate-shop-1", labels={})
    await node.settled()
    with pytest.raises(RefusedError, match=r"others run \(web-1\): remove those first.*app redeploy web"):
        await deploy(node, "web")
    with pytest.raises(RefusedError, match="is a database"):
        await deploy(node, "shop-db")
    with pytest.raises(RefusedError, match="there is a container sidegate-shop-1 already"):
        await deploy(node)
    with pytest.raises(InvalidInputError):
        await deploy(node, "Shop")
    with pytest.raises(RefusedError, match="PORT is given to shop by Sidegate"):
        await deploy(node, variables={"PORT": "1"})


async def test_a_domain_of_another_app(node: MemoryDaemon) -> None:
    await deploy(node, domains=["shop.example.com"])
    with pytest.raises(RefusedError, match=r"shop\.example\.com belongs to the app shop"):
        await deploy(node, "other", domains=["shop.example.com"])
    with pytest.raises(RefusedError, match=r"shop\.localhost belongs to the app shop"):
        await deploy(node, "other", domains=["shop.localhost"])
    assert "other" not in node.store.intent.deployments


async def test_a_deployment_that_fails_takes_all_back_that_was_said_with_it(node: MemoryDaemon) -> None:
    node.workloads.started = lambda container: node.data_plane.verdicts.update({container.id: ""})
    await deploy(node, port=5000, variables={"A": "1"}, domains=["a.example.com"], health="/up")
    before = node.store.intent
    node.workloads.started = lambda container: node.workloads.end(container.id, 1)
    with pytest.raises(RolloutFailedError, match="exited with code 1; the old containers go on serving"):
        await deploy(
            node, image="shop:2", port=6000, variables={"A": "2", "B": "3"}, domains=["b.example.com"], health="off"
        )
    after = node.store.intent
    assert (after.env, after.ports, after.domains, after.options, after.deployments, after.rollouts) == (
        before.env,
        before.ports,
        before.domains,
        before.options,
        before.deployments,
        {},
    )
    assert (await node.commands.apps.show("shop")).serving == 1


async def test_what_cannot_be_taken_back_is_said_with_why_it_failed(node: MemoryDaemon) -> None:
    await deploy(node, variables={"A": "1"})
    node.deaf.add("8080")
    failing = asyncio.create_task(deploy(node, image="shop:2", variables={"A": "2"}))
    while "0 of 1" not in node.rollouts.under_way("shop"):
        await asyncio.sleep(0.005)
    await node.store.set_variables("shop", [Variable("A", "3", "both")], [Variable("A", "2")])
    await node.run_out_of_time("shop", "0 of 1")
    with pytest.raises(RolloutFailedError, match=r"nothing listens(.|\n)*was taken back: shop already has A for both"):
        await failing
    assert node.store.intent.env["shop"] == (Variable("A", "3", "both"),)


async def test_a_clash_with_a_variable_for_both_changes_nothing(node: MemoryDaemon) -> None:
    await node.store.set_variables("shop", (Variable("A", "1", "both"),))
    with pytest.raises(KeyClashError):
        await deploy(node, variables={"A": "2"})
    assert node.store.intent.deployments == {}


async def test_a_health_path_that_the_present_ones_do_not_have_does_not_take_them_out(node: MemoryDaemon) -> None:
    await deploy(node)
    node.unknown_paths.add("/new")
    failing = asyncio.create_task(deploy(node, image="shop:2", health="/new"))
    await node.run_out_of_time("shop", "0 of 1")
    with pytest.raises(RolloutFailedError, match="/new answered 404"):
        await failing
    assert node.store.intent.options == {}
    seen: list[str] = []

    async def ask(address: str, port: int, path: str, host: str) -> str:
        """Only the new image has that path."""
        old = any(c.image == "shop:1" for c in node.engine_containers() if c.endpoints[0].address == address)
        seen.append(str(node.store.intent.options.get("shop", {}).get("health")))
        return f"{path} answered 404" if old else ""

    object.__setattr__(node.tools, "ask", ask)
    await deploy(node, image="shop:2", health="/new")
    assert node.store.intent.options["shop"] == {"health": "/new"}
    assert set(seen[1:]) == {"off"}


async def test_a_second_one_while_one_is_under_way(node: MemoryDaemon) -> None:
    await deploy(node)
    node.deaf.add("8080")
    first = asyncio.create_task(deploy(node, image="shop:2"))
    while not node.rollouts.under_way("shop"):
        await asyncio.sleep(0.005)
    for verb in (deploy(node), node.commands.deployments.redeploy("shop"), node.commands.deployments.port("shop", 1)):
        with pytest.raises(RefusedError, match="are being replaced at this moment"):
            await verb
    assert (await node.commands.apps.show("shop")).rollout
    node.deaf.clear()
    await first


@pytest.mark.parametrize("verb", ["deploy", "redeploy", "port"])
async def test_an_app_that_is_removed_meanwhile_is_not_deployed(node: MemoryDaemon, verb: str) -> None:
    await deploy(node)
    verbs = node.commands.deployments
    calls = {
        "deploy": lambda: deploy(node),
        "redeploy": lambda: verbs.redeploy("shop"),
        "port": lambda: verbs.port("shop", 1),
    }
    node.deaf |= {"8080", "1"}
    under_way = asyncio.create_task(calls[verb]())
    while not node.rollouts.under_way("shop"):
        await asyncio.sleep(0.005)
    await verbs.rm("shop")
    with pytest.raises(RolloutFailedError, match="shop was removed in the meantime") as caught:
        await under_way
    assert caught.value.exit_status == 1
    assert not node.store.intent.deployments


async def test_port_of_an_app_that_is_deployed(node: MemoryDaemon) -> None:
    """R27."""
    await deploy(node)
    found = await node.commands.deployments.port("shop", 9000)
    assert (found.port, [r.port for r in found.replicas]) == (9000, [9000])
    with pytest.raises(RefusedError, match="has the port 9000 already"):
        await node.commands.deployments.port("shop", 9000)


async def test_port_of_an_app_that_others_run(node: MemoryDaemon) -> None:
    """R27: it applies after a redeploy, and that is said."""
    node.app("web", env={"PORT": "3000"}, labels={"sidegate.port": "3000"})
    await node.settled()
    found = await node.commands.deployments.port("web", 9000)
    assert [r.port for r in found.replicas] == [3000]
    assert any("PORT=9000 applies to web-1 after a redeploy: `sidegate app redeploy web`" in n for n in found.notes)
    assert [(s.container, s.keys) for s in found.stale] == [("web-1", ["PORT"])]
    found = await node.commands.deployments.redeploy("web")
    assert [r.port for r in found.replicas] == [9000]
    assert found.stale == []


async def test_port_of_a_database(node: MemoryDaemon) -> None:
    """R28."""
    node.database("shop-db")
    await node.settled()
    with pytest.raises(FixedPortError, match="the internal port is 3306 and cannot be changed"):
        await node.commands.deployments.port("shop-db", 5432)


async def test_redeploy_says_what_cannot_be_made_anew_before_anything_is_done(node: MemoryDaemon) -> None:
    node.app("web")
    await node.settled()
    node.workloads.refusals["web-1"] = "it was run with --rm"
    with pytest.raises(RefusedError, match="--rm"):
        await node.commands.deployments.redeploy("web")
    assert node.store.intent.rollouts == {}
    with pytest.raises(NotFoundError):
        await node.commands.deployments.redeploy("nobody")


async def test_a_container_that_has_done_its_work_is_not_redeployed(node: MemoryDaemon) -> None:
    node.app("web", 1)
    migration = node.app("web", 2)
    node.engine.stop(migration.id)
    await node.settled()
    served = node.engine.container("web-1").id
    found = await node.commands.deployments.redeploy("web")
    assert found.notes == ["web-2 does not run, and stays as it is"]
    assert node.engine.container("web-1").id != served
    assert node.engine.container("web-2").id == migration.id
    assert not node.engine.container("web-2").running


async def test_domains(node: MemoryDaemon) -> None:
    node.app("web", labels={"sidegate.domains": "label.example.com"})
    await deploy(node)
    change = node.commands.deployments.domains
    found = await change("web", schemas.DomainsRequest(add=["a.example.com", "b.example.com"]))
    assert found.domains == ["a.example.com", "b.example.com", "label.example.com"]
    assert (await change("web", schemas.DomainsRequest(remove=["a.example.com"]))).domains == [
        "b.example.com",
        "label.example.com",
    ]
    refused: list[tuple[dict[str, list[str]], type[SidegateError], str]] = [
        ({"remove": ["label.example.com"]}, NotFoundError, "by the label sidegate.domains"),
        ({"remove": ["c.example.com"]}, NotFoundError, r"has no domain c\.example\.com by command \(it has b"),
        ({"add": ["x"], "remove": ["x"]}, InvalidInputError, "added and removed at once"),
        ({}, InvalidInputError, "nothing to change"),
    ]
    for asked, kind, why in refused:
        with pytest.raises(kind, match=why):
            await change("web", schemas.DomainsRequest(**asked))
    with pytest.raises(RefusedError, match=r"label\.example\.com belongs to the app web"):
        await change("shop", schemas.DomainsRequest(add=["label.example.com"]))


async def test_more_domains_than_an_app_may_have(node: MemoryDaemon) -> None:
    names = [f"d{number}.example.com" for number in range(1001)]
    node.app("web", labels={"sidegate.domains": names[0]})
    await node.settled()
    change = node.commands.deployments.domains
    with pytest.raises(RefusedError, match="shop would have 1,001 domains, and an app has 1,000 at most"):
        await deploy(node, domains=[f"shop-{name}" for name in names])
    assert not node.store.intent.deployments
    assert len((await change("web", schemas.DomainsRequest(add=names[:1000]))).domains) == 1000
    with pytest.raises(RefusedError, match="web would have 1,001 domains"):
        await change("web", schemas.DomainsRequest(add=names[1000:]))
    assert len((await change("web", schemas.DomainsRequest(remove=names[500:1000]))).domains) == 500


async def test_removing_an_app(node: MemoryDaemon) -> None:
    node.database("shop-db")
    await deploy(node, replicas=2, variables={"A": "1"}, domains=["a.example.com"])
    await node.connect("shop", "shop-db", env=False)
    found = await node.commands.deployments.rm("shop")
    assert (found.containers, found.network) == (["sidegate-shop-1", "sidegate-shop-2"], "sidegate--shop")
    assert (found.disconnected, found.variables_removed) == (["shop-db"], 1)
    assert names(node) == ["shop-db-1"]
    intent = node.store.intent
    assert not (intent.deployments or intent.env or intent.domains or intent.ports or intent.connections)
    networks = [n.name for n in node.loop.last.state.networks if n.name.startswith("sidegate-")]
    assert networks == ["sidegate-home--shop-db"]


async def test_removing_an_app_that_others_run_leaves_its_containers(node: MemoryDaemon) -> None:
    node.app("web")
    await node.settled()
    await node.store.set_variables("web", (Variable("A", "1"),))
    found = await node.commands.deployments.rm("web")
    assert (found.containers, found.kept_containers, found.network) == ([], ["web-1"], None)
    assert names(node) == ["web-1"]
    assert node.store.intent.env == {}


async def test_logs(node: MemoryDaemon) -> None:
    await deploy(node, replicas=2)
    for number in (1, 2):
        node.workloads.say(node.engine.container(f"sidegate-shop-{number}").id, "one", "two")
    found = await node.commands.logs.logs("shop", schemas.LogsQuery(tail=1))
    assert found.lines == ["sidegate-shop-1 | two", "sidegate-shop-2 | two"]
    with pytest.raises(InvalidInputError):
        await node.commands.logs.logs("shop", schemas.LogsQuery(tail=-1))


async def test_a_container_that_is_begun_anew_is_followed_on(node: MemoryDaemon) -> None:
    await deploy(node)
    container = node.engine.container("sidegate-shop-1").id
    node.workloads.say(container, "before", "one")
    told: list[str] = []
    asked = schemas.LogsQuery(tail=1, follow=True)
    following = asyncio.create_task(node.commands.logs.logs("shop", asked, told.append))
    for life, line in enumerate(("two", "three"), start=1):
        while len(told) < life:
            await asyncio.sleep(0.005)
        node.workloads.end(container, 1)
        await node.settled()
        node.engine.start(container)
        node.workloads.say(container, line)
    while len(told) < 3:
        await asyncio.sleep(0.005)
    following.cancel()
    assert told == ["one", "two", "three"]


async def test_a_purge_takes_the_containers_that_were_made(node: MemoryDaemon) -> None:
    node.app("web")
    await deploy(node, replicas=2)
    await node.commands.node.purge()
    await node.settled()
    assert names(node) == ["web-1"]
    assert node.store.intent.deployments == {}


async def test_a_purge_leaves_no_containers_of_others_half_replaced(node: MemoryDaemon) -> None:
    node.app("web")
    await deploy(node)
    node.deaf.add("8080")
    redeploying = asyncio.create_task(node.commands.deployments.redeploy("web"))
    while not node.rollouts.under_way("web"):
        await asyncio.sleep(0.005)
    with pytest.raises(RefusedError, match="the containers of web are being replaced: wait"):
        await node.commands.node.purge()
    node.deaf.clear()
    await redeploying
    assert (await node.commands.apps.show("shop")).serving == 1
    await node.commands.node.purge()
    assert [c.name for c in node.engine_containers()] == ["web-1"]


async def test_over_the_socket(node: MemoryDaemon) -> None:
    """The command line, its progress and its exit status."""
    words = ("app", "deploy", "shop", "--image", "shop:1", "--env", "A=1", "--env-file", "-")
    done = await node.sidegate(*words, text="B=2")
    assert done.returncode == 0, done.stderr
    assert "shop: making the new container sidegate-shop-1" in done.stderr
    assert '"image": "shop:1"' in done.stdout
    assert node.engine.container("sidegate-shop-1").env["B"] == "2"
    done = await node.sidegate(*words, text='B="x\r\ny"\r\nC=z\r\n')
    assert done.returncode == 0, done.stderr
    assert {v.key: v.value for v in node.store.intent.env["shop"]} == {"A": "1", "B": "x\r\ny", "C": "z"}
    done = await node.sidegate("--table", "app", "show", "shop")
    assert "shop:1" in done.stdout
    done = await node.sidegate("app", "rm", "shop")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    done = await node.sidegate("app", "deploy", "shop", "--image", "shop:1", "--command", "'")
    assert done.returncode == 2
    done = await node.sidegate("app", "rm", "shop", "--yes")
    assert done.returncode == 0, done.stderr


async def test_ctrl_c_ends_the_waiting_and_nothing_else(node: MemoryDaemon) -> None:
    await deploy(node)
    before = node.engine.container("sidegate-shop-1").id
    node.deaf.add("8080")
    command = [sys.executable, "-m", "sidegate", "app", "redeploy", "shop"]
    environ = os.environ | {"SIDEGATE_RUNTIME_DIR": str(node.path.parent)}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environ)
    assert process.stderr is not None
    while b"0 of 1" not in (line := await process.stderr.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    _, told = await process.communicate()
    assert (process.returncode, b"it goes on: see `sidegate app show shop`" in told) == (130, True), told
    node.deaf.clear()
    while node.rollouts.under_way("shop"):
        await asyncio.sleep(0.01)
    assert node.engine.container("sidegate-shop-1").id != before
