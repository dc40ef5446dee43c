import json

import pytest

from memory_daemon import PASSWORD, MemoryDaemon
from sidegate.core.model import Variable
from sidegate.errors import InvalidInputError, NotFoundError, RefusedError


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
    listed = {v.key: v for v in await daemon.commands.env.ls("shop")}
    assert listed["DB_HOST"].value == "shop-db.internal"
    assert listed["DB_PASSWORD"].value is None
    assert listed["DB_CONNECTION_URL"].value is None
    revealed = {v.key: v.value for v in await daemon.commands.env.ls("shop", reveal=True)}
    assert revealed["DB_PASSWORD"] == PASSWORD
    assert await daemon.commands.env.ls("shop", scope="build") == []


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
    with pytest.raises(InvalidInputError, match="dotenv, shell, json or docker"):
        await daemon.commands.env.export("shop", "yaml")
    with pytest.raises(InvalidInputError, match="build or runtime"):
        await daemon.commands.env.export("shop", "json", "both")
    with pytest.raises(RefusedError, match="DB_PASSWORD holds a line break"):
        await daemon.commands.env.export("shop", "docker")
