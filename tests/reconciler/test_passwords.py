"""Password changes as intent: carried out, taken back, or found half done and brought to an end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from memory_world import MemoryDatabases
from sidegate.adapters.store import Store
from sidegate.core.model import DatabaseDetails, PasswordChange, Variable
from sidegate.core.passwords import PasswordChanged
from sidegate.errors import (
    LoginFailedError,
    PasswordRefusedError,
    PasswordUncertainError,
    RefusedError,
    SidegateError,
    StoreError,
)
from sidegate.reconciler import passwords as passwords_module
from sidegate.reconciler.passwords import Passwords

OLD, NEW = "Old-password1,", "New-password1,"
GIVEN = DatabaseDetails("shop", OLD, "shop")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path)
    await store.set_database_details("shop-db", GIVEN)
    yield store
    await store.close()


@pytest.fixture
def databases() -> MemoryDatabases:
    databases = MemoryDatabases()
    databases.logins["shop-db"] = GIVEN
    return databases


async def test_nothing_is_done_where_nothing_is_asked(store: Store, databases: MemoryDatabases) -> None:
    await Passwords(store, databases).change("shop-db")
    assert databases.calls == []


async def test_the_store_follows_the_server(store: Store, databases: MemoryDatabases) -> None:
    passwords = Passwords(store, databases)
    expected = passwords.expect("shop-db")
    await store.begin_password("shop-db", PasswordChange(NEW, disconnect=True))
    await passwords.change("shop-db")
    assert databases.calls == ["change_password shop-db disconnect"]
    assert store.intent.databases["shop-db"].password == NEW
    assert not store.intent.passwords
    assert (await expected).details.password == NEW


async def test_variables_follow_in_the_same_transaction_only_on_demand(
    store: Store, databases: MemoryDatabases
) -> None:
    """B6."""
    variable = Variable("DB_PASSWORD", OLD, source="connection:shop-db", secret=True)
    await store.set_variables("shop", [variable])
    passwords = Passwords(store, databases)
    await store.begin_password("shop-db", PasswordChange(NEW))
    await passwords.change("shop-db")
    assert store.intent.env["shop"][0].value == OLD
    await store.begin_password("shop-db", PasswordChange("Third-password1,", update_env=True))
    await passwords.change("shop-db")
    assert store.intent.env["shop"][0].value == "Third-password1,"


async def test_apps_of_a_change_whose_caller_is_gone_are_redeployed(store: Store, databases: MemoryDatabases) -> None:
    """B6, after a crash; a caller that is there does it itself. One that cannot be holds up no other."""
    for app in ("blog", "shop"):
        await store.set_variables(app, [Variable("PW", OLD, source="connection:shop-db", secret=True)])
    redeployed: asyncio.Queue[str] = asyncio.Queue()

    async def redeploy(app: str) -> None:
        redeployed.put_nowait(app)
        raise RefusedError("it cannot be")

    passwords = Passwords(store, databases)
    passwords.redeploy = redeploy
    passwords.expect("shop-db")
    await store.begin_password("shop-db", PasswordChange("Second-password1,", update_env=True))
    await passwords.change("shop-db")
    await store.begin_password("shop-db", PasswordChange(NEW, update_env=True))
    await passwords.change("shop-db")
    async with asyncio.timeout(10):
        assert [await redeployed.get(), await redeployed.get()] == ["blog", "shop"]
    assert redeployed.empty()


@pytest.mark.parametrize("error", [LoginFailedError("down"), PasswordRefusedError("too short")])
async def test_what_certainly_did_not_happen_is_taken_back(
    store: Store, databases: MemoryDatabases, error: LoginFailedError
) -> None:
    passwords = Passwords(store, databases)
    expected = passwords.expect("shop-db")
    await store.begin_password("shop-db", PasswordChange(NEW))
    databases.fail_next["change_password"] = error
    with pytest.raises(LoginFailedError, match=str(error)):
        await passwords.change("shop-db")
    assert not store.intent.passwords
    assert store.intent.databases["shop-db"] == GIVEN
    with pytest.raises(LoginFailedError, match=str(error)):
        await expected


async def test_what_may_have_happened_goes_on_until_it_is_known(store: Store, databases: MemoryDatabases) -> None:
    clock = Clock()
    passwords = Passwords(store, databases, clock=clock)
    await store.begin_password("shop-db", PasswordChange(NEW))
    databases.after = PasswordUncertainError("no answer")
    with pytest.raises(PasswordUncertainError):
        await passwords.change("shop-db")
    clock.now += 0.4
    with pytest.raises(PasswordUncertainError):  # at once: a pass is not held up again
        await passwords.change("shop-db")
    assert databases.calls == ["change_password shop-db"]
    clock.now += passwords_module.LONGEST_PAUSE
    databases.fail_next["change_password"] = LoginFailedError("it does not run")
    with pytest.raises(LoginFailedError):
        await passwords.change("shop-db")
    assert store.intent.passwords  # it may still have the new one
    clock.now += passwords_module.LONGEST_PAUSE
    await passwords.change("shop-db")
    assert store.intent.databases["shop-db"].password == NEW
    assert not store.intent.passwords


@pytest.mark.parametrize("in_server", [OLD, NEW])
async def test_a_change_of_an_earlier_daemon_is_brought_to_its_end(
    store: Store, databases: MemoryDatabases, in_server: str
) -> None:
    """Killed before or after the server was told: either way it is told, and then the store knows."""
    databases.logins["shop-db"] = DatabaseDetails("shop", in_server, "shop")
    await store.begin_password("shop-db", PasswordChange(NEW))
    await Passwords(store, databases).change("shop-db")
    assert databases.logins["shop-db"].password == store.intent.databases["shop-db"].password == NEW
    assert not store.intent.passwords


async def test_a_change_of_an_earlier_daemon_waits_for_its_server(store: Store, databases: MemoryDatabases) -> None:
    await store.begin_password("shop-db", PasswordChange(NEW))
    passwords = Passwords(store, databases)
    databases.fail_next["change_password"] = LoginFailedError("down")
    with pytest.raises(LoginFailedError):
        await passwords.change("shop-db")
    assert store.intent.passwords["shop-db"].password == NEW


async def test_one_that_the_server_refuses_now_is_over(store: Store, databases: MemoryDatabases) -> None:
    await store.begin_password("shop-db", PasswordChange(NEW))
    databases.fail_next["change_password"] = PasswordRefusedError("too short")
    with pytest.raises(PasswordRefusedError):
        await Passwords(store, databases).change("shop-db")
    assert not store.intent.passwords


async def test_a_store_that_fails_after_the_server_was_told_is_caught_up(
    store: Store, databases: MemoryDatabases, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    passwords = Passwords(store, databases, clock=clock)
    await store.begin_password("shop-db", PasswordChange(NEW))

    async def full(*_: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(store, "end_password", full)
        with pytest.raises(StoreError):
            await passwords.change("shop-db")
    assert (databases.logins["shop-db"].password, store.intent.databases["shop-db"].password) == (NEW, OLD)
    clock.now += passwords_module.LONGEST_PAUSE
    databases.fail_next["change_password"] = LoginFailedError("restarting")
    with pytest.raises(LoginFailedError):
        await passwords.change("shop-db")
    assert store.intent.passwords  # not taken back: the server has it
    clock.now += passwords_module.LONGEST_PAUSE
    await passwords.change("shop-db")
    assert store.intent.databases["shop-db"].password == NEW


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (GIVEN, replace(GIVEN, password=NEW)),
        (replace(GIVEN, user="", schema="other"), replace(GIVEN, password=NEW, schema="other")),
        (replace(GIVEN, user="other"), replace(GIVEN, user="other")),
        (None, None),
    ],
    ids=["the old one", "another schema", "another user", "forgotten"],
)
async def test_who_says_meanwhile_what_counts_is_right_only_about_another_user(
    store: Store, said: DatabaseDetails | None, kept: DatabaseDetails | None
) -> None:
    """`db set`, or `db rm`, while the server is being told: it has the new one, which a login proved."""

    class Overtaken(MemoryDatabases):
        async def change_password(self, database: str, password: str, *, disconnect: bool = False) -> PasswordChanged:
            changed = await super().change_password(database, password, disconnect=disconnect)
            if said is None:
                await store.forget_database(database)
            else:
                await store.end_password(database, None)
                await store.set_database_details(database, said)
            return changed

    databases = Overtaken()
    databases.logins["shop-db"] = GIVEN
    await store.begin_password("shop-db", PasswordChange(NEW))
    await Passwords(store, databases).change("shop-db")
    assert store.intent.databases.get("shop-db") == kept
    assert not store.intent.passwords


async def test_a_change_after_one_that_was_given_up_is_a_fresh_one(store: Store, databases: MemoryDatabases) -> None:
    """`db set`, or `db rm` and `db create`, ended the first: what fails certainly is taken back all the same."""
    passwords = Passwords(store, databases)
    await store.begin_password("shop-db", PasswordChange(NEW, began=1.0))
    databases.fail_next["change_password"] = PasswordUncertainError("no answer")
    with pytest.raises(PasswordUncertainError):
        await passwords.change("shop-db")
    await store.end_password("shop-db", None)
    await store.begin_password("shop-db", PasswordChange(NEW, began=2.0))
    databases.fail_next["change_password"] = LoginFailedError("it does not run")
    with pytest.raises(LoginFailedError):
        await passwords.change("shop-db")
    assert not store.intent.passwords


async def test_errors_are_ours_and_carry_no_password(store: Store, databases: MemoryDatabases) -> None:
    await store.begin_password("shop-db", PasswordChange(NEW))
    databases.fail_next["change_password"] = PasswordRefusedError("too short")
    with pytest.raises(SidegateError) as caught:
        await Passwords(store, databases).change("shop-db")
    assert NEW not in repr(caught.value)


async def test_what_is_pending_asks_for_passes_until_it_is_done(store: Store, databases: MemoryDatabases) -> None:
    """A server that starts does not say when it takes logins."""
    woken = asyncio.Event()
    await store.begin_password("shop-db", PasswordChange(NEW))
    passwords = Passwords(store, databases, wake=woken.set)
    databases.fail_next["change_password"] = LoginFailedError("starting")
    with pytest.raises(LoginFailedError):
        await passwords.change("shop-db")
    async with asyncio.timeout(20):
        await woken.wait()
    await passwords.change("shop-db")
    assert store.intent.databases["shop-db"].password == NEW


async def test_a_server_that_takes_its_time_is_left_alone_for_longer(store: Store, databases: MemoryDatabases) -> None:
    clock = Clock()

    class Slow(MemoryDatabases):
        async def change_password(self, database: str, password: str, *, disconnect: bool = False) -> PasswordChanged:
            self.record("change_password")
            clock.now += 10
            raise PasswordUncertainError("no answer")

    slow = Slow()
    passwords = Passwords(store, slow, clock=clock)
    await store.begin_password("shop-db", PasswordChange(NEW))
    for seconds, asked in ((0, 1), (39, 1), (1, 2)):
        clock.now += seconds
        with pytest.raises(PasswordUncertainError):
            await passwords.change("shop-db")
        assert len(slow.calls) == asked
