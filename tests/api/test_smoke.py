import msgspec
from pathlib import Path
from memory_daemon import running
from sidegate.api import schemas

async def test_smoke(tmp_path: Path) -> None:
    async with running(tmp_path) as d:
        d.app("shop"); d.database("shop-db")
        r = await d.call("POST", "/v1/connections", schemas.Connected, body=schemas.ConnectRequest(app="shop", target="shop-db", env=True))
        print(r)
        for words in (["status"], ["status","--table"], ["app","ls","--table"], ["app","show","shop","--table"],["db","ls"],["db","ls","--table"],["db","show","shop-db","--table"],["db","credentials","shop-db"],["db","credentials","shop-db", "--table"],["connections","--table"],["connections"],["env","ls","shop","--table"],["env","export","shop"],["external","on","shop-db"],["external","on","shop-db","--table"],["external","ls","--table"],["external","off","shop-db","--table"],["external","sessions","shop-db"],["audit","--table"],["disconnect","shop","shop-db","--yes","--table"],["connect","shop","shop-db","--env","--table"],["connect","shop","shop-dbb"],["purge","--yes"]):
            done = await d.sidegate(*words)
            print("$", *words, done.returncode); print(done.stdout+done.stderr)
