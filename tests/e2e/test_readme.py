"""What the README tells people to paste, pasted."""

import os
import re
from pathlib import Path

from e2e.node import run

ROOT = Path(__file__).parents[2]


def test_the_five_minute_tour_works_when_pasted() -> None:
    """Must show 11. On the machine's own directories and port 80, since that is what the tour uses."""
    text = (ROOT / "README.md").read_text()
    tour = text[text.index("## Five minutes") : text.index("## Labels")]
    pasted = "\n".join(re.findall(r"```sh\n(.*?)```", tour, re.DOTALL))
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SIDEGATE_")}
    try:
        done = run("bash", "-e", "-c", pasted, cwd=ROOT, env=environ, timeout=180)
        assert "shop-db.internal:3306" in done.stdout
        assert "products" in done.stdout
        assert done.stdout.count("<h1>Shop</h1>") == 2  # over HTTP and over HTTPS
    finally:
        run("docker", "rm", "-f", "-v", "shop-1", "shop-db", check=False)
        run(str(ROOT / ".venv/bin/sidegate"), "purge", "--yes", check=False, env=environ)
        for left in ("shop.env", "sidegate.log", "sidegate-ca.crt"):
            (ROOT / left).unlink(missing_ok=True)


def test_the_demo_checks_itself() -> None:
    """Must show 1: the whole main job, verified, and nothing left."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SIDEGATE_")}
    run(str(ROOT / "scripts/demo"), "--check", env=environ, timeout=180)
    assert not run("docker", "ps", "-aq", "--filter", "label=sidegate.instance=sidegate-demo").stdout
    assert not run("docker", "network", "ls", "-q", "--filter", "label=sidegate.instance=sidegate-demo").stdout
