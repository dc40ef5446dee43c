"""The import rule: who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sidegate

PACKAGE = Path(sidegate.__file__).parent
ANYWHERE = {"errors", "log", "__version__"}
ALLOWED = {
    "core": {"core"},
    "adapters": {"core", "adapters"},
    "reconciler": {"core", "adapters", "reconciler"},
    "proxy": {"core", "proxy"},
    "api": {"core", "api"},
    "cli": {"api", "cli", "main", "doctor"},
    "doctor": {"doctor", "settings", "development", "core", "adapters", "api", "proxy"},
}
OWNERS = {"docker": ("adapters/docker/client.py",), "sqlite3": ("adapters/store/",)}
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_rule(path: Path) -> None:
    """Each part of the package imports only what DESIGN.md lets it know; the core only the standard library."""
    relative = path.relative_to(PACKAGE)
    part = relative.parts[0].removesuffix(".py")
    for module in imported(path):
        top, _, rest = module.partition(".")
        if top == "sidegate" and part in ALLOWED:
            target = rest.split(".")[0]
            assert not target or target in ALLOWED[part] | ANYWHERE, f"{relative} imports {module}"
        elif part == "core":
            assert top in sys.stdlib_module_names, f"{relative} imports {module}: the core is pure"
            assert top not in {"asyncio", "socket", "subprocess", "time", "os", "threading"}, f"{relative}: {module}"
        if top in OWNERS:
            assert str(relative).startswith(OWNERS[top]), f"{relative} imports {top}, which has an owner"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_module_holds_one_noun(path: Path) -> None:
    """No module passes 400 lines."""
    assert len(path.read_text().splitlines()) <= 400


def test_the_proxy_never_meets_the_docker_socket() -> None:
    """What strangers' bytes meet imports neither docker, nor the store, nor the control API, not even indirectly."""
    code = "import sys, sidegate.proxy.worker; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    banned = ("docker", "sqlite3", "aiohttp", "sidegate.api", "sidegate.adapters", "sidegate.reconciler")
    assert not [m for m in loaded if m.startswith(banned)]
