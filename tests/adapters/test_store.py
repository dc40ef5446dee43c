import asyncio
import dataclasses
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from sidegate.adapters.store import Store, audit, externals, file, variables
from sidegate.adapters.store.migrations import MIGRATIONS
from sidegate.core.audit import AuditEntry
from sidegate.core.gates import Entry, Gate
from sidegate.core.model import (
    DatabaseDetails,
    Deployment,
    External,
    Intent,
    OwnDatabase,
    Pair,
    PasswordChange,
    Rollout,
    Variable,
)
from sidegate.errors import (
    DiskFullError,
    DuplicateConnectionError,
    InvalidInputError,
    KeyClashError,
    NotFoundError,
    RefusedError,
    StoreError,
)

SHOP = Pair.of("shop", "shop-db")
LISTED = Gate(30001, (Entry("10.0.0.0/8"), Entry("192.0.2.0/24")))
BROUGHT = (
    Variable("DB_HOST", "shop-db.internal", source="connection:shop-db"),
    Variable("DB_PASSWORD", "x'; DROP TABLE variables; -- \n`$HOME`", source="connection:shop-db", secret=True),
)

FIRST = Deployment("shop:1", "sha256:aa", 2, ("run", "--it's", "a b"))
SECOND = Deployment("shop:2", "sha256:bb")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path)
    yield store
    await store.close()


async def reopened(directory: Path) -> Intent:
    store = await Store.open(directory)
    await store.close()
    return store.intent


def retired(*variables: Variable) -> frozenset[tuple[str, str]]:
    return frozenset((v.key, sha256(v.value.encode()).hexdigest()) for v in variables)


def entry(number: int) -> AuditEntry:
    return AuditEntry(1.5 + number, 1000, 42, "ann", "connect", f"shop-{number} shop-db", "done")


async def fill(store: Store) -> None:
    """Something of everything that there is."""
    await store.add_connection(SHOP, "shop", BROUGHT)
    await store.set_external("shop-db", External(Gate(30001, (Entry("10.0.0.0/8"),)), enabled=True))
    await store.set_database_details("shop-db", DatabaseDetails("u", "p", "s", "r"))
    await store.set_own_database("shop-db", OwnDatabase("mariadb", "mariadb:11", "sidegate-db--shop-db"))
    await store.begin_password("shop-db", PasswordChange("secret", update_env=True, began=5.5))
    await store.set_app("shop", "paused", {"https": "redirect"})
    await store.set_variables("shop", [Variable("OLD", "1")])
    await store.unset_variable("shop", "OLD")
    await store.replace_claims({"shop.example": "shop"})
    await store.set_deployment("shop", FIRST, port=8080, domains=("shop.example",), rollout=Rollout(1.5))


# --- what is kept


async def test_everything_is_there_again_after_a_restart(store: Store, tmp_path: Path) -> None:
    await store.add_connection(SHOP, "shop", BROUGHT)
    await store.set_external("shop-db", External(Gate(30001), enabled=True))
    await store.set_database_details("shop-db", DatabaseDetails("u", "p", "s", "r"))
    await store.set_variables("shop", [Variable("A", "1", "build"), Variable("A", "2", "runtime")])
    await store.replace_claims({"shop.example.com/api": "shop"})
    assert store.intent == Intent(
        connections=frozenset({SHOP}),
        externals={"shop-db": External(Gate(30001), True)},
        databases={"shop-db": DatabaseDetails("u", "p", "s", "r")},
        env={"shop": (*BROUGHT, Variable("A", "1", "build"), Variable("A", "2", "runtime"))},
        claims={"shop.example.com/api": "shop"},
    )
    await store.close()
    assert await reopened(tmp_path) == store.intent


async def test_each_commit_makes_a_new_value_and_leaves_the_old_one_alone(store: Store) -> None:
    before = store.intent
    after = await store.add_connection(SHOP, "shop")
    assert after is store.intent
    assert before == Intent()


async def test_only_the_daemon_can_read_the_files(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "state"
    store = await Store.open(directory)
    await store.add_connection(SHOP, "shop")
    modes = {path.name: path.stat().st_mode & 0o777 for path in (directory, *directory.iterdir())}
    await store.close()
    files = ("sidegate.db", "sidegate.db-wal", "sidegate.db-shm", "sidegate.reserve")
    assert modes == {"state": 0o700, **dict.fromkeys(files, 0o600)}


async def test_an_intent_of_the_same_content_is_not_written_again(store: Store) -> None:
    intent = await store.replace_claims({"a.example.com": "shop"})
    assert await store.replace_claims({"a.example.com": "shop"}) is intent
    intent = await store.set_external("shop-db", External(Gate(30001), enabled=False))
    assert await store.set_external("shop-db", External(Gate(30001), enabled=False)) is intent


# --- connections and variables


async def test_a_pair_is_connected_once_whichever_end_comes_first(store: Store) -> None:
    await store.add_connection(Pair.of("web", "api"), "web")
    with pytest.raises(DuplicateConnectionError, match="api and web are connected already"):
        await store.add_connection(Pair.of("api", "web"), "api")


async def test_a_clash_lists_the_keys_and_adds_nothing(store: Store) -> None:
    await store.set_variables("shop", [Variable("DB_HOST", "x", "both"), Variable("DB_PASSWORD", "x")])
    before = store.intent
    with pytest.raises(
        KeyClashError, match="shop already has DB_HOST for both, DB_PASSWORD for runtime: nothing was changed"
    ):
        await store.add_connection(SHOP, "shop", BROUGHT)
    with pytest.raises(KeyClashError, match="TWICE is given twice"):
        await store.add_connection(SHOP, "shop", [Variable("TWICE", "1"), Variable("TWICE", "2", "both")])
    assert store.intent is before


async def test_a_key_may_be_there_once_for_builds_and_once_for_running(store: Store) -> None:
    await store.set_variables("shop", [Variable("DB_HOST", "x", "build")])
    await store.add_connection(SHOP, "shop", BROUGHT)
    with pytest.raises(KeyClashError, match="shop already has DB_HOST for build, DB_HOST for runtime"):
        await store.set_variables("shop", [Variable("DB_HOST", "y", "both")])
    assert [(v.key, v.scope) for v in store.intent.env["shop"]] == [
        ("DB_HOST", "build"),
        ("DB_HOST", "runtime"),
        ("DB_PASSWORD", "runtime"),
    ]


async def test_setting_replaces_and_unsetting_removes(store: Store) -> None:
    await store.set_variables("shop", [Variable("A", "1", "build"), Variable("A", "1", "runtime"), Variable("B", "1")])
    await store.set_variables("shop", [Variable("A", "2", "build")])
    assert {(v.key, v.scope): v.value for v in store.intent.env["shop"]} == {
        ("A", "build"): "2",
        ("A", "runtime"): "1",
        ("B", "runtime"): "1",
    }
    await store.unset_variable("shop", "A", "runtime")
    await store.unset_variable("shop", "A")
    assert [v.key for v in store.intent.env["shop"]] == ["B"]
    with pytest.raises(NotFoundError, match="shop has no variable A for build"):
        await store.unset_variable("shop", "A", "build")
    with pytest.raises(NotFoundError, match=r"shop has no variable A$"):
        await store.unset_variable("shop", "A")
    assert (await store.unset_variable("shop", "B")).env == {}


async def test_a_renamed_variable_keeps_its_value_its_place_and_where_it_came_from(store: Store) -> None:
    await store.set_variables("shop", [Variable("A", "1", "build"), *BROUGHT, Variable("A", "2", "runtime")])
    await store.rename_variable("shop", "DB_HOST", "MYSQL_HOST")
    intent = await store.rename_variable("shop", "A", "B", "build")
    assert intent.env["shop"] == (
        Variable("B", "1", "build"),
        replace(BROUGHT[0], key="MYSQL_HOST"),
        BROUGHT[1],
        Variable("A", "2", "runtime"),
    )
    with pytest.raises(NotFoundError, match="shop has no variable A for build"):
        await store.rename_variable("shop", "A", "C", "build")


async def test_a_variable_moves_to_another_scope_unless_its_key_is_there(store: Store) -> None:
    await store.set_variables("shop", [Variable("A", "1", "build"), Variable("A", "2"), Variable("B", "3")])
    before = store.intent
    with pytest.raises(KeyClashError, match="shop already has A for build: nothing was changed"):
        await store.rename_variable("shop", "A", "A", "runtime", new_scope="both")
    with pytest.raises(KeyClashError, match="A is given twice for one scope"):
        await store.rename_variable("shop", "A", "A", new_scope="both")
    with pytest.raises(KeyClashError, match="shop already has A for runtime"):
        await store.rename_variable("shop", "B", "A")
    assert store.intent is before
    intent = await store.rename_variable("shop", "B", "B", new_scope="both")
    assert intent.env["shop"][-1] == Variable("B", "3", "both")


async def test_values_that_containers_may_still_have_are_known_by_their_hashes(store: Store) -> None:
    """However a value ends at run time: replaced, unset, renamed, only for builds now, or gone with its connection."""
    await store.set_variables("shop", [Variable(key, "old", "both") for key in ("A", "B", "C", "D")])
    await store.set_variables("shop", [Variable("ONLY_BUILD", "1", "build")])
    await store.add_connection(SHOP, "shop", BROUGHT)
    assert store.intent.retired == {}
    await store.set_variables("shop", [Variable("A", "new", "both")])
    await store.unset_variable("shop", "B")
    await store.rename_variable("shop", "C", "CC")
    await store.rename_variable("shop", "D", "D", new_scope="build")
    await store.unset_variable("shop", "ONLY_BUILD")
    intent = await store.remove_connection(SHOP, keep_variables=False)
    assert intent.retired == {"shop": retired(*(Variable(key, "old") for key in ("A", "B", "C", "D")), *BROUGHT)}


async def test_a_connection_that_is_taken_back_leaves_everything_as_it_was(store: Store) -> None:
    """Variables that stayed from an earlier one too, and what is known of values before."""
    await store.add_connection(SHOP, "shop", [replace(v, scope="build") for v in BROUGHT])
    await store.remove_connection(SHOP, keep_variables=True)
    await store.set_variables("shop", [Variable(BROUGHT[0].key, BROUGHT[0].value)])
    before = await store.unset_variable("shop", BROUGHT[0].key, "runtime")
    await store.add_connection(SHOP, "shop", BROUGHT)
    assert await store.take_back_connection(SHOP, "shop", BROUGHT) == before
    await store.add_connection(SHOP, "shop", BROUGHT)
    changed = await store.set_variables("shop", [Variable("DB_HOST", "other")])
    await store.take_back_connection(SHOP, "shop", BROUGHT)
    assert store.intent.env["shop"] == tuple(v for v in changed.env["shop"] if v != BROUGHT[1])


async def test_only_the_last_values_of_a_key_are_known(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "RETIRED_KEPT", 2)
    await store.set_variables("shop", [Variable("A", "0")])
    for number in range(1, 5):
        await store.set_variables("shop", [Variable("A", str(number)), Variable("B", str(number))])
    last = [Variable(key, value) for key in ("A", "B") for value in ("2", "3")]
    assert store.intent.retired == {"shop": retired(*last)}


async def test_a_connection_takes_its_variables_with_it_from_both_ends(store: Store) -> None:
    pair = Pair.of("web", "api")
    await store.add_connection(pair, "web", [Variable("API_HOST", "api.internal", source="connection:api")])
    others = [Variable("OWN", "1"), Variable("OTHER", "1", source="connection:db")]
    await store.set_variables("web", others)
    await store.set_variables("api", [Variable("WEB_HOST", "web.internal", source="connection:web")])
    intent = await store.remove_connection(pair, keep_variables=False)
    gone = {
        "api": retired(Variable("WEB_HOST", "web.internal")),
        "web": retired(Variable("API_HOST", "api.internal")),
    }
    assert intent == Intent(env={"web": tuple(others)}, retired=gone)


async def test_variables_stay_where_that_is_chosen(store: Store) -> None:
    await store.add_connection(SHOP, "shop", BROUGHT)
    intent = await store.remove_connection(SHOP, keep_variables=True)
    assert intent == Intent(env={"shop": BROUGHT})
    with pytest.raises(NotFoundError, match="shop and shop-db are not connected"):
        await store.remove_connection(SHOP, keep_variables=True)


async def test_two_databases_never_share_a_port(store: Store) -> None:
    await store.set_external("shop-db", External(Gate(30001), enabled=False))
    with pytest.raises(RefusedError, match="port 30001 belongs to shop-db"):
        await store.set_external("blog-db", External(Gate(30001), enabled=True))
    await store.set_external("shop-db", External(Gate(30001), enabled=True))
    assert store.intent.externals == {"shop-db": External(Gate(30001), True)}


async def test_text_that_is_no_unicode_is_refused(store: Store) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await store.set_variables("shop", [Variable("A", "s3cret \ud800")])
    assert "s3cret" not in str(caught.value)
    await store.set_variables("shop", [Variable("A", "“quotes” \0 😀")])
    assert store.intent.env["shop"][0].value == "“quotes” \0 😀"


async def test_a_purge_forgets_everything_but_the_audit_trail(store: Store) -> None:
    await fill(store)
    empty = Intent()
    assert not [f.name for f in dataclasses.fields(Intent) if getattr(store.intent, f.name) == getattr(empty, f.name)]
    await store.append_audit(entry(1))
    assert await store.purge() == Intent()
    assert await store.audit(9) == (entry(1),)


async def test_a_removed_password_is_not_left_in_the_file(store: Store, tmp_path: Path) -> None:
    await store.set_database_details("shop-db", DatabaseDetails("u", "correct-horse", "s", ""))
    await store.purge()
    await store.close()
    assert b"correct-horse" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


async def test_the_audit_trail_is_newest_first_and_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_KEPT", 3)
    for number in range(5):
        await store.append_audit(entry(number))
    assert await store.audit(10) == (entry(4), entry(3), entry(2))
    assert await store.audit(1) == (entry(4),)


async def test_concurrent_mutations_all_happen(store: Store, tmp_path: Path) -> None:
    await asyncio.gather(*(store.add_connection(Pair.of(f"app-{n}", "db"), f"app-{n}") for n in range(50)))
    assert len(store.intent.connections) == 50
    await store.close()
    assert await reopened(tmp_path) == store.intent


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.purge()


# --- how apps are served


async def test_a_mode_and_options_are_set_together_and_outlive_a_restart(store: Store, tmp_path: Path) -> None:
    await store.set_app("shop", "paused", {"https": "redirect", "max-body": "10m"})
    await store.set_app("blog", "maintenance")
    intent = await store.set_app("shop", None, {"max-body": None, "hsts": "1d"})
    assert intent.modes == {"blog": "maintenance", "shop": "paused"}
    assert intent.options == {"shop": {"hsts": "1d", "https": "redirect"}}
    await store.close()
    assert await reopened(tmp_path) == intent


async def test_serving_with_nothing_set_leaves_nothing_behind(store: Store) -> None:
    await store.set_app("shop", "maintenance", {"hsts": "1d"})
    await store.set_app("shop", "paused")
    intent = await store.set_app("shop", "serving", {"hsts": None, "https": None})
    assert intent == Intent()


async def test_a_mode_that_cannot_be_stored_leaves_the_options_alone(store: Store) -> None:
    before = await store.set_app("shop", "paused", {"hsts": "1d"})
    with pytest.raises(StoreError, match="nothing was changed"):
        await store.set_app("shop", "asleep", {"hsts": "2d"})
    assert store.intent == before


# --- what Sidegate runs


async def test_a_deployment_comes_with_all_that_was_said_with_it(store: Store, tmp_path: Path) -> None:
    await store.set_variables("shop", [Variable("A", "1"), Variable("B", "1")])
    await store.set_deployment(
        "shop",
        FIRST,
        port=8080,
        domains=("b.example", "a.example", "b.example"),
        options={"health": "/up"},
        variables=[Variable("A", "2"), Variable("C", "3", "build")],
        rollout=Rollout(7.25),
    )
    expected = Intent(
        env={"shop": (Variable("B", "1"), Variable("A", "2"), Variable("C", "3", "build"))},
        options={"shop": {"health": "/up"}},
        deployments={"shop": FIRST},
        ports={"shop": 8080},
        domains={"shop": ("b.example", "a.example")},
        retired={"shop": retired(Variable("A", "1"))},
        rollouts={"shop": Rollout(7.25)},
    )
    assert store.intent == expected
    intent = await store.set_deployment("shop", SECOND, options={"health": None})
    assert intent == replace(expected, deployments={"shop": SECOND}, options={})
    assert (await store.set_deployment("shop", None)).deployments == {}
    await store.close()
    assert await reopened(tmp_path) == store.intent


async def test_a_deployment_whose_variables_clash_changes_nothing(store: Store) -> None:
    before = await store.set_variables("shop", [Variable("A", "1", "both")])
    with pytest.raises(KeyClashError, match="shop already has A for both"):
        await store.set_deployment("shop", FIRST, port=8080, variables=[Variable("A", "2")], rollout=Rollout(1.0))
    assert store.intent is before
    with pytest.raises(StoreError, match="nothing was changed"):
        await store.set_deployment("shop", FIRST, domains=("a.example",), port=0)
    assert store.intent is before


async def test_a_port_and_domains_are_set_and_unset(store: Store) -> None:
    await store.set_port("shop", 8080)
    await store.set_domains("shop", ("a.example", "b.example"))
    intent = await store.set_domains("shop", ("c.example", "a.example"))
    assert (intent.ports, intent.domains) == ({"shop": 8080}, {"shop": ("c.example", "a.example")})
    await store.set_port("shop", None)
    assert await store.set_domains("shop", ()) == Intent()


async def test_a_rollout_that_fails_brings_back_what_was_there(store: Store, tmp_path: Path) -> None:
    rollout = Rollout(1.5, before=FIRST, port_before=8080)
    await store.set_deployment("shop", FIRST, port=8080)
    before = store.intent
    await store.set_deployment("shop", SECOND, port=9090, rollout=rollout)
    await store.close()
    store = await Store.open(tmp_path)
    assert store.intent.rollouts == {"shop": rollout}
    with pytest.raises(NotFoundError, match="no containers of shop are being replaced"):
        await store.end_rollout("shop", Rollout(1.0, before=FIRST), restore=True)
    assert await store.end_rollout("shop", rollout, restore=True) == before
    with pytest.raises(NotFoundError, match="no containers of shop are being replaced"):
        await store.end_rollout("shop", rollout, restore=True)
    await store.close()


async def test_a_rollout_of_what_was_not_deployed_before_leaves_nothing_behind(store: Store) -> None:
    await store.set_deployment("shop", FIRST, port=8080, rollout=Rollout(1.5))
    assert await store.end_rollout("shop", Rollout(1.5), restore=True) == Intent()


async def test_a_rollout_that_is_done_leaves_what_was_asked_for(store: Store) -> None:
    await store.begin_rollout("shop", Rollout(1.0, before=SECOND, port_before=1))
    await store.begin_rollout("shop", Rollout(2.0))
    await store.begin_rollout("shop", Rollout(3.0), asked=False)
    assert store.intent.rollouts == {"shop": Rollout(2.0)}
    await store.set_deployment("shop", SECOND, port=9090)
    assert await store.end_rollout("shop", Rollout(2.0), restore=False) == Intent(
        deployments={"shop": SECOND}, ports={"shop": 9090}
    )


async def test_a_forgotten_app_leaves_nothing_but_the_other_ends(store: Store) -> None:
    await fill(store)
    await store.add_connection(Pair.of("shop", "web"), "web", [Variable("SHOP_HOST", "s", source="connection:shop")])
    await store.set_variables("web", [Variable("OWN", "1")])
    intent = await store.forget_app("shop")
    assert intent == Intent(
        externals=store.intent.externals,
        databases={"shop-db": DatabaseDetails("u", "p", "s", "r")},
        env={"web": (Variable("OWN", "1"),)},
        retired={"web": retired(Variable("SHOP_HOST", "s"))},
        passwords=store.intent.passwords,
        own_databases=store.intent.own_databases,
    )


# --- databases and their passwords


async def test_a_password_is_kept_apart_until_the_engine_has_it(store: Store, tmp_path: Path) -> None:
    await store.set_database_details("shop-db", DatabaseDetails("u", "old", "s", "r"))
    await store.add_connection(SHOP, "shop", BROUGHT)
    change = PasswordChange("new", update_env=True, disconnect=True, began=3.5)
    await store.begin_password("shop-db", replace(change, password="first"))
    await store.begin_password("shop-db", change)
    await store.close()
    store = await Store.open(tmp_path)
    assert store.intent.passwords == {"shop-db": change}
    assert store.intent.databases["shop-db"].password == "old"
    new = replace(BROUGHT[1], value="new")
    intent = await store.end_password("shop-db", DatabaseDetails("u", "new", "s", "new"), {"shop": [new]})
    assert intent == Intent(
        connections=frozenset({SHOP}),
        databases={"shop-db": DatabaseDetails("u", "new", "s", "new")},
        env={"shop": (BROUGHT[0], new)},
        retired={"shop": retired(BROUGHT[1])},
    )
    with pytest.raises(NotFoundError, match="no change of shop-db's password is under way"):
        await store.end_password("shop-db", None)
    await store.close()


async def test_a_password_that_was_taken_back_changes_nothing(store: Store, tmp_path: Path) -> None:
    before = await store.set_database_details("shop-db", DatabaseDetails("u", "old", "s", "r"))
    await store.begin_password("shop-db", PasswordChange("correct-horse"))
    assert await store.end_password("shop-db", None, {"shop": [Variable("A", "1")]}) == before
    await store.close()
    assert b"correct-horse" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


async def test_variables_that_clash_leave_a_password_under_way(store: Store) -> None:
    await store.set_variables("shop", [Variable("A", "1", "both")])
    before = await store.begin_password("shop-db", PasswordChange("new"))
    with pytest.raises(KeyClashError):
        await store.end_password("shop-db", DatabaseDetails(password="new"), {"shop": [Variable("A", "2")]})
    assert store.intent is before


async def test_a_forgotten_database_leaves_nothing_but_the_other_ends(store: Store) -> None:
    await store.set_external("blog-db", External(Gate(30002), enabled=True))
    other = store.intent.externals
    await fill(store)
    intent = await store.forget_database("shop-db")
    assert (intent.connections, intent.externals, intent.databases, intent.env) == (frozenset(), other, {}, {})
    assert (intent.passwords, intent.own_databases) == ({}, {})
    assert intent.deployments == {"shop": FIRST}
    assert retired(*BROUGHT) < intent.retired["shop"]
    await store.set_own_database("blog-db", OwnDatabase("postgres", "postgres:17", "v"))
    assert (await store.set_own_database("blog-db", None)).own_databases == {}


# --- files of earlier schemas


async def test_a_file_of_the_third_schema_keeps_all_that_it_holds(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as db:
        db.executescript(f"BEGIN; {'; '.join(MIGRATIONS[:3])}; PRAGMA user_version = 3; COMMIT")
        db.execute("INSERT INTO connections VALUES ('shop', 'shop-db')")
        db.execute("INSERT INTO databases VALUES ('shop-db', 'u', 'p', 's', 'r')")
        db.execute("INSERT INTO externals (database, port, enabled, idle_off) VALUES ('shop-db', 30001, 1, 1800)")
        db.execute("INSERT INTO external_entries VALUES (1, 'shop-db', 'allow', '10.0.0.0/8', 'the office')")
        db.execute("INSERT INTO variables VALUES (1, 'shop', 'A', '1', 'both', 'connection:shop-db', 1)")
        db.execute("INSERT INTO claims VALUES ('shop.example', 'shop')")
        db.execute("INSERT INTO modes VALUES ('shop', 'paused')")
        db.execute("INSERT INTO options VALUES ('shop', 'https', 'redirect')")
    store = await Store.open(tmp_path)
    kept = Intent(
        connections=frozenset({SHOP}),
        externals={"shop-db": External(Gate(30001, (Entry("10.0.0.0/8", "the office"),)), True, idle_off=1800)},
        databases={"shop-db": DatabaseDetails("u", "p", "s", "r")},
        env={"shop": (Variable("A", "1", "both", "connection:shop-db", secret=True),)},
        claims={"shop.example": "shop"},
        modes={"shop": "paused"},
        options={"shop": {"https": "redirect"}},
    )
    assert store.intent == kept
    deployed = await store.set_deployment("shop", FIRST, port=8080)
    assert deployed == replace(kept, deployments={"shop": FIRST}, ports={"shop": 8080})
    await store.close()
    assert await reopened(tmp_path) == deployed


async def test_a_file_of_the_first_schema_is_brought_up_to_date_with_all_that_it_holds(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as db:
        db.executescript(f"BEGIN; {MIGRATIONS[0]}; PRAGMA user_version = 1; COMMIT")
        db.execute("INSERT INTO connections VALUES ('shop', 'shop-db')")
        db.execute("INSERT INTO externals VALUES ('shop-db', 30001, 1)")
        db.execute("INSERT INTO claims VALUES ('shop.example', 'shop')")
        db.execute(
            "INSERT INTO variables (app, key, value, scope, source, secret) VALUES ('shop', 'A', '1', 'both', 'x', 0)"
        )
        db.execute(
            "INSERT INTO audit (at, uid, pid, user, verb, target, outcome) VALUES (1, 0, 1, 'ann', 'v', 't', 'done')"
        )
    store = await Store.open(tmp_path)
    assert store.intent == Intent(
        connections=frozenset({SHOP}),
        externals={"shop-db": External(Gate(30001), enabled=True)},
        env={"shop": (Variable("A", "1", "both", "x"),)},
        claims={"shop.example": "shop"},
    )
    await store.set_app("shop", "paused", {"https": "redirect"})
    assert [entry.user for entry in await store.audit(5)] == ["ann"]
    await store.close()
    assert (await reopened(tmp_path)).modes == {"shop": "paused"}


async def test_an_external_connection_keeps_its_lists_limits_and_terms(store: Store, tmp_path: Path) -> None:
    allow = (Entry("203.0.113.0/24", "the office"), Entry("2001:db8::/32"), Entry("10.0.0.0/8"))
    gate = Gate(30001, allow, (Entry("203.0.113.9/32"),), local=True, max_sessions=3, max_new=7)
    external = External(gate, True, expires_at=1_800_000_000.25, idle_off=1800, forwarder="kernel", used_at=1.5)
    await store.set_external("shop-db", external)
    await store.set_external("blog-db", External(Gate(30002), enabled=False))
    assert store.intent.externals["shop-db"] == external
    narrower = replace(external, gate=replace(gate, allow=allow[:1], deny=()))
    await store.set_external("shop-db", narrower)
    await store.close()
    assert (await reopened(tmp_path)).externals == {
        "blog-db": External(Gate(30002), enabled=False),
        "shop-db": narrower,
    }


async def test_a_forgotten_external_connection_leaves_no_list_behind(store: Store) -> None:
    await store.set_external("shop-db", External(Gate(30001, (Entry("203.0.113.0/24"),)), enabled=True))
    await store.forget_external("shop-db")
    await store.set_external("shop-db", External(Gate(30001), enabled=True))
    assert store.intent.externals["shop-db"].gate == Gate(30001)


async def test_an_end_does_not_undo_what_somebody_has_asked_for_meanwhile(store: Store) -> None:
    seen = External(Gate(30001), enabled=True, expires_at=100.0)
    extended = replace(seen, expires_at=200.0)
    await store.set_external("shop-db", seen)
    await store.set_external("shop-db", extended)
    await store.replace_external("shop-db", seen, replace(seen, enabled=False))
    assert store.intent.externals["shop-db"] == extended
    await store.replace_external("shop-db", extended, replace(extended, enabled=False))
    assert store.intent.externals["shop-db"].enabled is False


async def test_a_file_of_the_second_schema_keeps_its_external_connections(tmp_path: Path) -> None:
    """They were open to anybody for ever, and still are."""
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as db:
        db.executescript(f"BEGIN; {MIGRATIONS[0]}; {MIGRATIONS[1]}; PRAGMA user_version = 2; COMMIT")
        db.execute("INSERT INTO externals VALUES ('shop-db', 30001, 1), ('blog-db', 30002, 0)")
        db.execute("INSERT INTO modes VALUES ('shop', 'paused')")
    opened = await reopened(tmp_path)
    assert opened.externals == {
        "blog-db": External(Gate(30002), enabled=False),
        "shop-db": External(Gate(30001), enabled=True),
    }
    assert opened.modes == {"shop": "paused"}


# --- what goes wrong


async def test_a_newer_file_is_left_alone(store: Store, tmp_path: Path) -> None:
    await store.close()
    with closing(sqlite3.connect(tmp_path / "sidegate.db")) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="was written by a newer Sidegate"):
        await Store.open(tmp_path)


async def test_a_migration_that_fails_leaves_the_old_schema(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.add_connection(SHOP, "shop")
    await store.close()
    broken = (*MIGRATIONS, "DROP TABLE claims; SELECT nonsense")
    monkeypatch.setattr(file, "MIGRATIONS", broken)
    with pytest.raises(StoreError, match="cannot be opened: no such column: nonsense"):
        await Store.open(tmp_path)
    monkeypatch.setattr(file, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE more (a)"))
    assert (await reopened(tmp_path)).connections == {SHOP}
    assert (await reopened(tmp_path)).connections == {SHOP}


@pytest.mark.parametrize("damage", ["garbage", "torn", "foreign", "emptied", "gone"])
async def test_a_file_that_is_not_ours_or_not_whole_is_never_replaced(
    store: Store, tmp_path: Path, damage: str
) -> None:
    file, wal = tmp_path / "sidegate.db", tmp_path / "sidegate.db-wal"
    await store.set_variables("shop", [Variable(f"KEY_{n}", "v" * 200) for n in range(500)])
    log = wal.read_bytes()
    await store.close()
    match damage:
        case "garbage":
            file.write_bytes(b"garbage" * 1000)
        case "torn":
            content = bytearray(file.read_bytes())
            content[8192:40960] = os.urandom(32768)
            file.write_bytes(content)
        case "foreign":
            file.unlink()
            with closing(sqlite3.connect(file)) as db:
                db.execute("CREATE TABLE somebodys (a)")
        case "emptied":
            file.write_bytes(b"")
            wal.write_bytes(log)
        case "gone":
            file.unlink()
            wal.write_bytes(log)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=str(file)):
        await Store.open(tmp_path)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {name: after[name] for name in before} == before


async def test_a_place_that_everybody_can_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(StoreError, match="can be written by everybody"):
        await Store.open(tmp_path)


async def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "sidegate.db").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match="cannot be opened"):
        await Store.open(tmp_path)


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/state/sidegate\.db: cannot be opened: Not a directory"):
        await Store.open(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    ("before", "after", "closes"),
    [
        (External(LISTED, enabled=True), External(LISTED, enabled=False), True),
        (None, External(LISTED, enabled=True), False),
        (External(LISTED, enabled=False), External(LISTED, enabled=True), False),
        (External(LISTED, enabled=True), External(replace(LISTED, allow=LISTED.allow[1:]), enabled=True), True),
        (External(LISTED, enabled=True), External(replace(LISTED, allow=()), enabled=True), False),
        (External(LISTED, enabled=True), External(replace(LISTED, allow=(), local=True), enabled=True), False),
        (External(LISTED, enabled=True), External(replace(LISTED, deny=(Entry("10.1.0.0/16"),)), enabled=True), True),
        (External(LISTED, enabled=True), External(replace(LISTED, max_new=3), enabled=True), False),
        (External(Gate(30001), enabled=True), External(LISTED, enabled=True), True),
        (External(Gate(30001, local=True), enabled=True), External(replace(LISTED, local=True), enabled=True), False),
        (External(LISTED, enabled=True, expires_at=5.0), External(LISTED, enabled=True, expires_at=9.0), False),
    ],
)
def test_what_only_closes_is_known_from_what_may_let_somebody_in(
    before: External | None, after: External, closes: bool
) -> None:
    assert externals.closes(before, after) is closes


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Writes beyond `size` bytes fail as on a broken disk (EFBIG is an I/O error to SQLite)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_a_failed_write_changes_nothing_and_the_next_one_may_succeed(store: Store, tmp_path: Path) -> None:
    before = await store.set_variables("shop", [Variable("A", "1")])
    size = (tmp_path / "sidegate.db-wal").stat().st_size
    large = [Variable("LARGE", "x" * 100_000)]
    with no_file_larger_than(size + 20_000), pytest.raises(StoreError, match=r"I/O error: nothing was changed"):
        await store.set_variables("shop", large)
    assert store.intent is before
    after = await store.set_variables("shop", large)
    await store.close()
    assert await reopened(tmp_path) == after


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
async def test_a_full_disk_changes_nothing_and_with_room_again_all_is_well(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "sidegate-test", tmp_path], check=True)
    store = await Store.open(tmp_path)
    try:
        before = await store.set_variables("shop", [Variable("A", "1")])
        filler = tmp_path / "filler"
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(DiskFullError, match=f"disk of {tmp_path} is full .*: nothing was changed"):
            await store.set_variables("shop", [Variable("LARGE", "x" * 50_000)])
        with pytest.raises(DiskFullError, match="kept in memory until there is room"):
            await store.append_audit(dataclasses.replace(entry(1), target="x" * 50_000))
        assert store.intent is before
        filler.unlink()
        after = await store.set_variables("shop", [Variable("LARGE", "x" * 50_000)])
        await store.close()
        assert await reopened(tmp_path) == after
    finally:
        await store.close()
        subprocess.run(["umount", tmp_path], check=True)


async def test_another_writer_is_waited_for_and_then_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.close()
    monkeypatch.setattr(file, "LOCKED_SECONDS", 0.01)
    store = await Store.open(tmp_path)
    with closing(sqlite3.connect(tmp_path / "sidegate.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="database is locked: nothing was changed"):
            await store.add_connection(SHOP, "shop")
        assert store.intent == Intent()
        other.execute("ROLLBACK")
        await store.add_connection(SHOP, "shop")
    await store.close()


STREAM_OF_COMMITS = """
import asyncio, sys
from pathlib import Path
from sidegate.adapters.store import Store
from sidegate.core.model import Pair, Variable

async def main():
    store = await Store.open(Path(sys.argv[1]))
    number = len(store.intent.connections)
    while True:
        app = f"app-{number}"
        await store.add_connection(Pair.of(app, "db"), app, [Variable("DB_HOST", "db.internal"), Variable("N", app)])
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    rounds, chance = 20, random.Random(1)
    expected = 0
    for _ in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", STREAM_OF_COMMITS, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout
            lines = [child.stdout.readline() for _ in range(chance.randint(1, 8))]
            child.send_signal(signal.SIGKILL)
            # What still stands in the pipe was acknowledged before the kill too.
            lines += child.stdout.readlines()
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
        intent = await reopened(tmp_path)
        count = len(intent.connections)
        assert acknowledged
        assert count > max(acknowledged) >= expected
        assert intent.connections == {Pair.of(f"app-{n}", "db") for n in range(count)}
        assert all(len(intent.env[f"app-{n}"]) == 2 for n in range(count))
        expected = count
