"""The verb `db password`, over the socket and in process, beside a server in memory."""

import json
from urllib.parse import quote

import pytest

from memory_daemon import LOGIN, PASSWORD, MemoryDaemon
from sidegate.api import schemas
from sidegate.api.schemas import DatabaseRequest, PasswordRequest
from sidegate.core.model import DatabaseDetails, PasswordChange, Variable
from sidegate.core.passwords import unmet_rules
from sidegate.errors import (
    InvalidInputError,
    LoginFailedError,
    NotFoundError,
    PasswordUncertainError,
    RefusedError,
)

NEW = "New-pa'$s\"w`rd1"


@pytest.fixture
async def node(daemon: MemoryDaemon) -> MemoryDaemon:
    daemon.database("shop-db")
    daemon.databases.logins["shop-db"] = DatabaseDetails("shop", PASSWORD, "shop")
    daemon.app("shop")
    return await daemon.settled()


async def test_a_given_password_counts_for_every_way_in(node: MemoryDaemon) -> None:
    """R41, R42."""
    await node.commands.externals.on("shop-db")
    done = await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    assert (done.user, done.password, done.accounts) == ("shop", None, ["shop@%"])
    found = await node.commands.databases.credentials("shop-db")
    assert (found.user, found.password, found.checked) == ("shop", NEW, "ok")
    for url in (found.internal.url, found.external.url):
        assert url is not None
        assert f":{quote(NEW, safe='')}@" in url
    assert not node.store.intent.passwords


async def test_a_generated_one_is_in_the_answer_and_passes(node: MemoryDaemon) -> None:
    """R42, R44."""
    done = await node.commands.passwords.change("shop-db", PasswordRequest(generate=True))
    assert done.password
    assert not unmet_rules(done.password)
    assert (await node.commands.databases.credentials("shop-db")).password == done.password


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (PasswordRequest(), "either a password or generate"),
        (PasswordRequest(password=NEW, generate=True), "either a password or generate"),
        (PasswordRequest(password="short"), r"8 characters \(it has 5\), an upper-case letter, a digit and one of"),
        (PasswordRequest(password=NEW + "\n"), "line break"),
        (PasswordRequest(password=NEW + "\0"), "NUL"),
        (PasswordRequest(password=NEW + "x" * 79), "bytes"),
    ],
)
async def test_what_no_password_may_be_is_refused_and_nothing_is_told(
    node: MemoryDaemon, asked: PasswordRequest, reason: str
) -> None:
    """R43."""
    with pytest.raises(InvalidInputError, match=reason):
        await node.commands.passwords.change("shop-db", asked)
    assert not any(call.startswith("change_password") for call in node.databases.calls)


async def test_the_present_one_is_refused(node: MemoryDaemon) -> None:
    await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    with pytest.raises(RefusedError, match="that is the password of shop-db already"):
        await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))


async def test_a_database_that_is_down_is_refused_and_nothing_has_changed(node: MemoryDaemon) -> None:
    node.engine.stop(node.engine.container("shop-db-1").id)
    await node.settled()
    with pytest.raises(RefusedError, match="was not changed, since a login fails: unknown: shop-db-1 is exited"):
        await node.commands.passwords.change("shop-db", PasswordRequest(generate=True))
    assert not node.store.intent.passwords
    assert (await node.commands.databases.credentials("shop-db")).password == PASSWORD


async def test_a_login_that_fails_is_refused_with_the_way_out(node: MemoryDaemon) -> None:
    node.logins.password = "another"
    with pytest.raises(RefusedError, match=r"a login fails: refused: .*; say what it is now with `sidegate db set"):
        await node.commands.passwords.change("shop-db", PasswordRequest(generate=True))


async def test_the_administrator_may_replace_what_nobody_knows(node: MemoryDaemon) -> None:
    await node.commands.databases.set("shop-db", DatabaseRequest(root_password="root"))
    node.logins.password = "another"
    await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    assert node.store.intent.databases["shop-db"].password == NEW


async def test_what_is_not_there_or_no_database_is_not_found(node: MemoryDaemon) -> None:
    for name in ("shop", "nothing"):
        with pytest.raises(NotFoundError):
            await node.commands.passwords.change(name, PasswordRequest(generate=True))


async def test_a_failure_takes_the_change_back_and_says_why(node: MemoryDaemon) -> None:
    node.databases.fail_next["change_password"] = LoginFailedError("the server is read-only")
    with pytest.raises(LoginFailedError, match="the server is read-only"):
        await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    assert not node.store.intent.passwords
    assert (await node.commands.databases.credentials("shop-db")).password == PASSWORD


async def test_what_is_uncertain_stays_and_can_be_ended_by_saying_which_one_counts(node: MemoryDaemon) -> None:
    node.databases.after = PasswordUncertainError("no answer")
    with pytest.raises(PasswordUncertainError, match="no answer"):
        await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    assert node.store.intent.passwords["shop-db"].password == NEW
    assert any("no answer" in p.text for p in (await node.commands.databases.show("shop-db")).problems)
    with pytest.raises(RefusedError):
        await node.commands.passwords.change("shop-db", PasswordRequest(generate=True))
    with pytest.raises(RefusedError, match="under way, for its present user"):
        await node.commands.databases.set("shop-db", DatabaseRequest(user="other"))
    await node.commands.databases.set("shop-db", DatabaseRequest(user="shop", schema="shop"))
    await node.commands.databases.set("shop-db", DatabaseRequest(password=NEW))
    assert not node.store.intent.passwords
    await node.commands.databases.set("shop-db", DatabaseRequest(user="other"))
    assert (await node.commands.databases.credentials("shop-db")).checked == "ok"


async def test_a_change_of_a_killed_daemon_is_healed_at_the_next_pass(node: MemoryDaemon) -> None:
    """Whether its server has the new password by then or not."""
    for in_server in (PASSWORD, NEW):
        node.databases.logins["shop-db"] = DatabaseDetails("shop", in_server, "shop")
        await node.store.set_database_details("shop-db", DatabaseDetails())
        await node.store.begin_password("shop-db", PasswordChange(NEW))
        await node.settled()
        assert (await node.commands.databases.credentials("shop-db")).password == NEW
        assert not node.store.intent.passwords


async def test_a_pending_change_of_a_stopped_database_is_a_problem(node: MemoryDaemon) -> None:
    node.engine.stop(node.engine.container("shop-db-1").id)
    await node.store.begin_password("shop-db", PasswordChange(NEW))
    await node.settled()
    texts = [p.text for p in (await node.commands.databases.show("shop-db")).problems]
    assert any("a change of its password is under way" in text for text in texts)


async def test_everybody_who_still_holds_the_old_one_is_listed(node: MemoryDaemon) -> None:
    """R46: variables of whatever origin, and running containers, also inside URLs; never a value."""
    await node.connect("shop", "shop-db", env=True)
    await node.store.set_variables("blog", [Variable("DSN", f"mysql://x:{quote(PASSWORD)}@elsewhere/x", "build")])
    node.app("old", env={"DATABASE_URL": f"mysql://shop:{quote(PASSWORD, safe='')}@shop-db/shop", "PW": PASSWORD})
    stopped = node.app("gone", env={"PW": PASSWORD})
    node.engine.stop(stopped.id)
    await node.settled()
    done = await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW))
    assert [(v.app, v.key, v.scope) for v in done.variables] == [
        ("blog", "DSN", "build"),
        ("shop", "DB_CONNECTION_URL", "runtime"),
        ("shop", "DB_PASSWORD", "runtime"),
    ]
    assert [(c.container, c.app, c.keys) for c in done.containers] == [("old-1", "old", ["DATABASE_URL", "PW"])]
    assert done.updated == []
    assert any("--update-env updates them" in note for note in done.notes)
    assert any("containers of old hold the old password" in note for note in done.notes)


async def test_update_env_changes_what_connections_added_and_nothing_else(node: MemoryDaemon) -> None:
    """B6."""
    await node.connect("shop", "shop-db", env=True)
    await node.store.set_variables("shop", [Variable("MINE", PASSWORD)])
    done = await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW, update_env=True))
    assert [(v.app, v.key) for v in done.updated] == [("shop", "DB_CONNECTION_URL"), ("shop", "DB_PASSWORD")]
    assert [(v.app, v.key) for v in done.variables] == [("shop", "MINE")]
    assert done.redeployed == ["shop"]
    assert node.engine.container("shop-1").env["DB_PASSWORD"] == NEW
    stored = {v.key: v.value for v in node.store.intent.env["shop"]}
    assert (stored["DB_PASSWORD"], stored["MINE"]) == (NEW, PASSWORD)
    assert stored["DB_CONNECTION_URL"] == (await node.commands.databases.credentials("shop-db")).internal.url


async def test_an_app_that_cannot_be_redeployed_is_named_and_nothing_is_taken_back(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    node.workloads.refusals["shop-1"] = "it was started with --rm"
    done = await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW, update_env=True))
    assert done.redeployed == []
    assert any("shop was not redeployed" in note and "--rm" in note for note in done.notes)
    assert {v.key: v.value for v in node.store.intent.env["shop"]}["DB_PASSWORD"] == NEW


async def test_disconnect_is_passed_on_and_counted(node: MemoryDaemon) -> None:
    """B7."""
    node.databases.threads["shop-db"] = 3
    done = await node.commands.passwords.change("shop-db", PasswordRequest(generate=True, disconnect=True))
    assert done.sessions_ended == 3
    assert "change_password shop-db disconnect" in node.databases.calls


async def test_over_the_socket_no_password_is_in_the_audit_trail(node: MemoryDaemon) -> None:
    body = PasswordRequest(password=NEW)
    done = await node.call("PUT", "/v1/databases/shop-db/password", schemas.PasswordSet, body=body)
    assert done.database == "shop-db"
    entries = await node.commands.node.audit()
    assert (entries[0].verb, entries[0].target, entries[0].outcome) == ("db password", "shop-db", "done")
    assert NEW not in repr(entries)


async def test_the_command_line_reads_standard_input_and_prints_what_it_made(node: MemoryDaemon) -> None:
    given = await node.sidegate("db", "password", "shop-db", "--stdin", text=NEW + "\n")
    assert given.returncode == 0, given.stderr
    assert NEW not in given.stdout + given.stderr
    made = await node.sidegate("db", "password", "shop-db", "--generate", "--json")
    assert json.loads(made.stdout)["password"] == (await node.commands.databases.credentials("shop-db")).password
    table = await node.sidegate("db", "password", "shop-db", "--generate", "--table")
    password = (await node.commands.databases.credentials("shop-db")).password
    assert password
    assert password in table.stdout
    assert "nobody else holds the old one" in table.stdout


@pytest.mark.parametrize(
    ("words", "text", "status", "said"),
    [
        ((), "", 2, "either --generate or --stdin"),
        (("--generate", "--stdin"), "", 2, "either --generate or --stdin"),
        (("--stdin",), "weak\n", 2, "8 characters (it has 4)"),
        (("--stdin",), NEW + "\r\n", 2, "line break"),
        (("--stdin",), "", 2, "holds no password"),
    ],
)
async def test_the_command_line_refuses(
    node: MemoryDaemon, words: tuple[str, ...], text: str, status: int, said: str
) -> None:
    done = await node.sidegate("db", "password", "shop-db", *words, text=text)
    assert (done.returncode, said in done.stderr) == (status, True), done.stderr


async def test_every_export_carries_a_password_of_every_character(node: MemoryDaemon) -> None:
    await node.connect("shop", "shop-db", env=True)
    await node.commands.passwords.change("shop-db", PasswordRequest(password=NEW, update_env=True))
    exported = json.loads(await node.commands.env.export("shop", "json"))
    assert exported["DB_PASSWORD"] == NEW


def test_the_login_of_the_tests_is_not_one_that_could_be_set() -> None:
    """It ends in a newline: what an engine holds already is carried, whatever it is."""
    assert unmet_rules(LOGIN["MARIADB_PASSWORD"]) == ("an upper-case letter", "a digit")
