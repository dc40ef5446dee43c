"""Who is thrown out leaves no query behind in the database, and nobody else loses his: kick, deny, a narrower list."""

from collections.abc import Callable
from typing import Any

from e2e.node import Node, wait_for
from e2e.outside import Outside, Switch, administrator, ask

COM_QUERY = 3
WAITING = "SELECT word, '{}' FROM shop.greetings FOR UPDATE"
"""It waits for the lock of a row, and looks at no socket meanwhile."""


def waiting(root: Callable[[str], Any]) -> set[str]:
    """The addresses whose queries the server has."""
    quoted = "SUBSTRING_INDEX(SUBSTRING_INDEX(info, '''', 2), '''', -1)"
    found = root(f"SELECT GROUP_CONCAT({quoted}) FROM information_schema.processlist WHERE info LIKE 'SELECT word, %'")
    return {*str(found or "").split(",")} - {""}


def test_who_is_parted_leaves_no_query_behind(
    node: Node, switch: Switch, shop_db: str, outside: Outside, forwarder: str
) -> None:
    stays, kicked, denied, unlisted = outside.there
    port = switch.on(forwarder=forwarder)
    sessions = {address: outside.login(port, address) for address in outside.there}
    with administrator(node, shop_db) as root, administrator(node, shop_db) as locks:
        locks("SET autocommit = 0")
        locks("SELECT word FROM shop.greetings FOR UPDATE")
        for address, session in sessions.items():
            ask(session, "SET innodb_lock_wait_timeout = 600")
            session._execute_command(COM_QUERY, WAITING.format(address))  # type: ignore[attr-defined]
        left = {*sessions}
        wait_for("the queries run", lambda: waiting(root) == left)
        for address, part in (
            (kicked, lambda: switch.kick(kicked)),
            (denied, lambda: switch.edit(deny=[denied])),
            (unlisted, lambda: switch.change(allow=[stays, kicked])),
        ):
            part()
            left.remove(address)
            wait_for(f"that of {address} has ended", lambda: waiting(root) == left)
        locks("COMMIT")
        sessions[stays]._read_query_result()  # type: ignore[attr-defined]
        assert sessions[stays]._result.rows == (("good morning", stays),)  # type: ignore[attr-defined]
    assert not [problem for problem in node.problems() if "may run on" in problem]
