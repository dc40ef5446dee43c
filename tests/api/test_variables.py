"""Variables through the real commands, store and socket."""

import io
import json
import shlex
import subprocess
from typing import Any

import pytest
from dotenv import dotenv_values

from literal_values import LITERAL
from memory_daemon import MemoryDaemon
from sidegate.api import schemas
from sidegate.core.dotenv import parse_dotenv
from sidegate.core.model import Variable
from sidegate.errors import InvalidInputError, KeyClashError, NotFoundError, RefusedError


@pytest.fixture
async def shop(daemon: MemoryDaemon) -> MemoryDaemon:
    """An app that runs, and a database."""
    daemon.app("shop")
    daemon.database("shop-db")
    return await daemon.settled()


async def change(node: MemoryDaemon, app: str = "shop", **options: Any) -> schemas.EnvChanged:
    return await node.commands.env.change(app, schemas.EnvRequest(**options))


def stored(node: MemoryDaemon, app: str = "shop") -> dict[tuple[str, str], str]:
    return {(v.key, v.scope): v.value for v in node.store.intent.env.get(app, ())}


# --- setting and unsetting


async def test_variables_are_set_replaced_and_unset_together(shop: MemoryDaemon) -> None:
    done = await change(shop, variables={"A": "1", "B": "2"})
    assert [(v.key, v.scope) for v in done.set] == [("A", "runtime"), ("B", "runtime")]
    done = await change(shop, variables={"A": "3", "B": None, "C": "4"}, dotenv="D=5\nE='6'\n")
    assert [v.key for v in done.unset] == ["B"]
    assert {key: value for (key, _), value in stored(shop).items()} == {"A": "3", "C": "4", "D": "5", "E": "6"}


async def test_a_key_may_be_there_for_builds_and_for_running(shop: MemoryDaemon) -> None:
    """R23, R24."""
    await change(shop, variables={"A": "b"}, scope="build")
    await change(shop, variables={"A": "r"}, scope="runtime")
    await change(shop, variables={"C": "x"}, scope="both")
    before = shop.store.intent
    for scope, keys in {"both": "A for build, A for runtime", "build": "C for both", "runtime": "C for both"}.items():
        with pytest.raises(KeyClashError, match=rf"shop already has {keys}.*nothing was changed.*sidegate env unset"):
            await change(shop, variables={"A" if scope == "both" else "C": "y", "NEW": "z"}, scope=scope)
    assert shop.store.intent is before
    export = shop.commands.env.export
    assert json.loads(await export("shop", "json", "build")) | {"PORT": ""} == {"A": "b", "C": "x", "PORT": ""}
    assert json.loads(await export("shop", "json", "runtime")) | {"PORT": ""} == {"A": "r", "C": "x", "PORT": ""}
    await change(shop, variables={"A": None})
    assert stored(shop) == {("C", "both"): "x"}


async def test_without_a_scope_a_key_stays_where_it_is(shop: MemoryDaemon) -> None:
    await change(shop, variables={"A": "1"}, scope="both")
    await change(shop, variables={"B": "1"}, scope="build")
    await change(shop, variables={"A": "2", "B": "2"})
    assert stored(shop) == {("A", "both"): "2", ("B", "build"): "1", ("B", "runtime"): "2"}


async def test_what_was_secret_stays_secret(shop: MemoryDaemon) -> None:
    await change(shop, variables={"A": "1"}, secret=True)
    await change(shop, variables={"A": "2", "B": "2"})
    assert [(v.key, v.value) for v in (await shop.commands.env.ls("shop")).variables] == [("A", None), ("B", "2")]
    await change(shop, variables={"A": "3"}, secret=False)
    assert (await shop.commands.env.ls("shop")).variables[0].value == "3"


async def test_an_app_to_come_may_have_variables_first(shop: MemoryDaemon) -> None:
    done = await change(shop, "shpo", variables={"A": "1"}, scope="build")
    assert done.notes == ["shpo has no container yet (did you mean shop?)"]
    assert "shpo" in {app.name for app in await shop.commands.apps.ls()}
    await change(shop, "shpo", variables={"A": None})
    assert "shpo" not in {app.name for app in await shop.commands.apps.ls()}
    with pytest.raises(NotFoundError, match="shop-db is a database"):
        await change(shop, "shop-db", variables={"A": "1"})


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, InvalidInputError, "nothing to change"),
        ({"variables": {"1A": "x"}}, InvalidInputError, "'1A' is not a variable's name"),
        ({"variables": {"A": "s3cret\0"}}, InvalidInputError, "the value of A holds a NUL"),
        ({"variables": {"A": "s3cret" * 30_000}}, InvalidInputError, "A and its value are longer than 128 KiB"),
        ({"variables": {"A": "1"}, "scope": "never"}, InvalidInputError, "build, runtime or both"),
        ({"variables": {"A": "1"}, "dotenv": "A=2"}, InvalidInputError, "A is given twice"),
        ({"variables": {"A": None}, "dotenv": "A=s3cret"}, InvalidInputError, "A cannot be set and unset at once"),
        ({"dotenv": "A=1\ns3cret"}, InvalidInputError, "line 2"),
        ({"variables": {"A": "1", "KEPPT": None}}, NotFoundError, "no variable KEPPT: did you mean KEPT?"),
        ({"variables": {"KEPT": None}, "scope": "build"}, NotFoundError, "shop has no variable KEPT for build"),
        ({"variables": {"PORT": "9000"}}, RefusedError, "sidegate app port shop"),
        ({"variables": {"A": "1"}, "dotenv": "PORT=9000"}, RefusedError, "sidegate app port shop"),
    ],
)
async def test_what_cannot_be_is_refused_and_changes_nothing(
    shop: MemoryDaemon, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    await change(shop, variables={"KEPT": "1"})
    before = shop.store.intent
    with pytest.raises(error) as caught:
        await change(shop, **options)
    assert text in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert shop.store.intent is before


# --- renaming


async def test_a_variable_of_a_connection_is_renamed_later_and_still_goes_with_it(shop: MemoryDaemon) -> None:
    """R17."""
    await shop.connect("shop", "shop-db", env=True)
    await change(shop, variables={"OWN": "1"})
    done = await shop.commands.env.rename("shop", "DB_HOST", schemas.VariableEdit(key="MYSQL_HOST", scope="both"))
    assert [(v.key, v.scope) for v in (*done.set, *done.unset)] == [("MYSQL_HOST", "both"), ("DB_HOST", "runtime")]
    assert stored(shop)["MYSQL_HOST", "both"] == "shop-db.internal"
    gone = await shop.commands.connections.disconnect("shop", "shop-db")
    assert "MYSQL_HOST" in gone.variables_removed
    assert stored(shop) == {("OWN", "runtime"): "1"}


@pytest.mark.parametrize(
    ("key", "edit", "error", "text"),
    [
        ("A", {"key": "B"}, KeyClashError, "shop already has B for runtime"),
        ("A", {"key": "A-B"}, InvalidInputError, "'A-B' is not a variable's name"),
        ("A", {"key": "PORT"}, RefusedError, "sidegate app port"),
        ("A", {"key": "A"}, InvalidInputError, "nothing to change"),
        ("A", {}, InvalidInputError, "nothing to change"),
        ("A", {"scope": "all"}, InvalidInputError, "build, runtime or both"),
        ("C", {"key": "D"}, NotFoundError, "shop has no variable C"),
    ],
)
async def test_a_wrong_rename_changes_nothing(
    shop: MemoryDaemon, key: str, edit: dict[str, str], error: type[Exception], text: str
) -> None:
    await change(shop, variables={"A": "1", "B": "2"})
    before = shop.store.intent
    with pytest.raises(error, match=text):
        await shop.commands.env.rename("shop", key, schemas.VariableEdit(**edit))
    assert shop.store.intent is before


async def test_a_connection_cannot_bring_the_port(shop: MemoryDaemon) -> None:
    before = shop.store.intent
    with pytest.raises(RefusedError, match="sidegate app port shop"):
        await shop.connect("shop", "shop-db", env=True, renames={"DB_PORT": "PORT"})
    assert shop.store.intent is before


# --- the calls


async def test_the_calls_write_down_keys_and_never_values(shop: MemoryDaemon) -> None:
    path, changed = "/v1/apps/shop/env", schemas.EnvChanged
    body = schemas.EnvRequest(variables={"A": "s3cret"}, dotenv="B=s3cret\n")
    await shop.call("PATCH", path, changed, body=body)
    await shop.call("PUT", f"{path}/C", changed, body=schemas.VariableRequest("s3cret", scope="build"))
    await shop.call("PATCH", f"{path}/C", changed, body=schemas.VariableEdit(key="D"), query={"scope": "build"})
    await shop.call("DELETE", f"{path}/D", changed, query={"scope": "build"})
    await shop.call("PATCH", path, changed, body=schemas.EnvRequest(variables={"A": None}))
    with pytest.raises(InvalidInputError):
        await shop.call("PATCH", path, changed, body=schemas.EnvRequest(variables={"s3 cret": "x"}, dotenv="s3 cret"))
    assert stored(shop) == {("B", "runtime"): "s3cret"}
    trail = [(entry.verb, entry.target, entry.outcome) for entry in reversed(await shop.store.audit(10))]
    assert trail == [
        ("env set", "shop A B", "done"),
        ("env set", "shop C", "done"),
        ("env rename", "shop C D", "done"),
        ("env unset", "shop D", "done"),
        ("env unset", "shop A", "done"),
        ("env set", "shop (a file)", "invalid"),
    ]


async def test_no_value_is_logged(shop: MemoryDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    body = schemas.EnvRequest(variables={"A": "s3cret"}, secret=True)
    await shop.call("PATCH", "/v1/apps/shop/env", schemas.EnvChanged, body=body)
    await shop.call("GET", "/v1/apps/shop/env", bytes, query={"format": "json"})
    await shop.settled()
    printed = capsys.readouterr()
    assert "env set" in printed.out + printed.err
    assert "s3cret" not in printed.out + printed.err


# --- values are literal


async def test_values_are_literal_through_the_store_and_every_format(shop: MemoryDaemon) -> None:
    """B4: each format is read by its own consumer, byte for byte."""
    await shop.call("PATCH", "/v1/apps/shop/env", schemas.EnvChanged, body=schemas.EnvRequest(variables={**LITERAL}))
    wanted = {**LITERAL, "PORT": "8080"}

    async def export(form: str) -> str:
        body: bytes = await shop.call("GET", "/v1/apps/shop/env", bytes, query={"format": form, "scope": "runtime"})
        return body.decode()

    assert json.loads(await export("json")) == wanted
    text = await export("dotenv")
    assert parse_dotenv(text) == wanted
    assert dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False) == wanted
    prints = "".join(f'printf "%s\\0" "${key}"\n' for key in wanted)
    for shell in ("bash", "sh"):
        script = ((await export("shell")) + prints).encode()
        read = subprocess.run([shell, "-s"], input=script, capture_output=True, check=True)
        assert read.stdout.decode().split("\0")[:-1] == list(wanted.values())
    words = shlex.split(await export("build-args"))
    assert dict(word.split("=", 1) for word in words[1::2]) == LITERAL
    with pytest.raises(RefusedError, match="LINES holds a line break"):
        await export("docker")
    await change(shop, variables={"LINES": None})
    lines = (await export("docker")).removesuffix("\n").split("\n")
    assert dict(line.split("=", 1) for line in lines) == {k: v for k, v in wanted.items() if k != "LINES"}


async def test_a_file_that_was_exported_is_set_again_as_it_was(shop: MemoryDaemon) -> None:
    await change(shop, variables={**LITERAL})
    text = (await shop.commands.env.export("shop", "dotenv")).replace('PORT="8080"\n', "")
    await change(shop, variables=dict.fromkeys(LITERAL))
    await change(shop, dotenv=text)
    assert {key: value for (key, _), value in stored(shop).items()} == LITERAL


# --- containers that have others


async def test_running_containers_with_other_variables_are_marked(daemon: MemoryDaemon) -> None:
    """B5: by key, never by value; in lists, in the status, and until they have what they should."""
    daemon.app("shop", 1, env={"A": "1", "OWN": "x", "GONE": "s3cret"})
    daemon.app("shop", 2, env={"A": "0", "GONE": "another"})
    daemon.engine.stop(daemon.app("shop", 3).id)
    daemon.app("other")
    await daemon.settled()
    await change(daemon, variables={"A": "1", "GONE": "s3cret"})
    done = await change(daemon, variables={"GONE": None, "B": "x"}, scope="runtime")
    stale = [("shop-1", ["B", "GONE"]), ("shop-2", ["A", "B"])]
    assert [(s.container, s.keys) for s in done.stale] == stale
    (note,) = done.notes
    assert "shop-1 (B, GONE), shop-2 (A, B)" in note
    assert "`sidegate app redeploy shop`" in note
    assert [(s.container, s.keys) for s in (await daemon.commands.env.ls("shop")).stale] == stale
    shown = {app.name: app for app in await daemon.commands.apps.ls()}
    assert [(s.container, s.keys) for s in shown["shop"].stale] == stale
    assert shown["other"].stale == []
    assert note in (await daemon.commands.apps.show("shop")).notes
    assert (await daemon.commands.node.status()).counts.stale == 1
    assert "s3cret" not in str((done, shown))


async def test_variables_of_builds_leave_containers_alone(shop: MemoryDaemon) -> None:
    assert (await change(shop, variables={"A": "1"}, scope="build")).stale == []
    await change(shop, variables={"B": "1"})
    moved = await shop.commands.env.rename("shop", "B", schemas.VariableEdit(scope="build"))
    assert (moved.stale, moved.notes) == ([], [])


async def test_a_disconnect_says_who_still_has_the_variables(daemon: MemoryDaemon) -> None:
    """R36, B5."""
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("shop", "shop-db", env=True)
    daemon.app("shop", env={v.key: v.value for v in daemon.store.intent.env["shop"]})
    await daemon.settled()
    (view,) = await daemon.commands.connections.ls()
    assert view.variables == {"shop": sorted(v.key for v in daemon.store.intent.env["shop"])}
    done = await daemon.commands.connections.disconnect("shop", "shop-db")
    assert (len(done.variables_removed), done.variables_kept) == (6, [])
    (note,) = done.notes
    assert "shop-1 (DB_CONNECTION_URL, DB_HOST, " in note
    assert daemon.store.intent.env == {}


async def test_a_clash_of_a_connection_says_all_ways_out(shop: MemoryDaemon) -> None:
    await shop.store.set_variables("shop", [Variable("DB_HOST", "x", "both"), Variable("DB_PORT", "x")])
    before = shop.store.intent
    with pytest.raises(KeyClashError) as caught:
        await shop.connect("shop", "shop-db", env=True)
    assert str(caught.value) == (
        "shop already has DB_HOST for both, DB_PORT for runtime: nothing was changed; use other names "
        "(--rename DB_HOST=OTHER_DB_HOST), unset them first (`sidegate env unset shop DB_HOST DB_PORT`) "
        "or connect without --env"
    )
    assert shop.store.intent is before
