"""Completion in a real bash: what stands on the line after a tab."""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import patient
from memory_daemon import MemoryDaemon, running
from sidegate.api import schemas
from sidegate.cli.completion import SCRIPTS

SIDEGATE = str(Path(sys.executable).parent / "sidegate")

ASK = r"""
eval "$SCRIPT"
COMP_LINE=$1 COMP_POINT=${{#1}}
# As readline does: = and : are words of their own, and a word of nothing follows a blank.
read -ra COMP_WORDS <<< "${{1//[=:]/ & }}"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
compopt() {{ printf 'option %s\n' "$*"; }}
_sidegate {sidegate} "${{COMP_WORDS[COMP_CWORD]}}" ''
(( ${{#COMPREPLY[@]}} )) && printf '%s\n' "${{COMPREPLY[@]}}"
true
"""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[MemoryDaemon]:
    async with running(tmp_path) as daemon:
        daemon.app("shop", labels={"sidegate.domains": "shop.example.com"})
        daemon.app("blog")
        daemon.database("shop-db")
        await daemon.settled()
        await daemon.connect("shop", "shop-db", env=True)
        await daemon.commands.apps.change("shop", schemas.AppRequest(options={"https": "redirect"}))
        request = schemas.ExternalRequest(enabled=True, allow=["192.0.2.0/24=office", "2001:db8::/32"])
        await daemon.commands.externals.on("shop-db", None, request)
        yield daemon


async def complete(node: MemoryDaemon, line: str) -> list[str]:
    """What bash is offered in the place of the last word, or of what follows its last = or :."""
    return await asyncio.to_thread(bash, line, node.path.parent, patient.program(node.path.parents[1]))


def bash(line: str, runtime_dir: Path, sidegate: str = SIDEGATE) -> list[str]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("SIDEGATE_")}
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.format(sidegate=shlex.quote(sidegate)), "bash", line],
        capture_output=True,
        text=True,
        timeout=30,
        env=environ | {"SIDEGATE_RUNTIME_DIR": str(runtime_dir), "SCRIPT": SCRIPTS["bash"]},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sidegate e", ["events", "env", "external"]),
        ("sidegate external de", ["deny"]),
        ("sidegate audit --li", ["--limit"]),
        ("sidegate app show ", ["blog", "shop"]),
        ("sidegate app show s", ["shop"]),
        ("sidegate db show ", ["shop-db"]),
        ("sidegate connect b", ["blog"]),
        ("sidegate disconnect shop ", ["shop-db"]),
        ("sidegate app set shop htt", ["option -o nospace", "https="]),
        ("sidegate app set shop https=", ["both", "redirect"]),
        ("sidegate app set shop https=re", ["redirect"]),
        ("sidegate app set shop access-log=o", ["on", "off"]),
        ("sidegate app unset shop ", ["https"]),
        ("sidegate env unset shop DB_P", ["DB_PORT", "DB_PASSWORD"]),
        ("sidegate env set shop DB_HO", ["option -o nospace", "DB_HOST="]),
        ("sidegate env ls shop --scope ", []),
        ("sidegate env set shop --scope ", ["build", "runtime", "both"]),
        ("sidegate app domains shop --remove ", ["shop.example.com"]),
        ("sidegate external allow shop-db --remove ", ["192.0.2.0/24", "2001:db8::/32"]),
        ("sidegate external allow shop-db --remove 2001:d", ["db8::/32"]),
        ("sidegate events --kind external.i", ["external.idle-off"]),
        ("sidegate audit --verb cert", ["cert", "cert ls", "cert add", "cert rm", "cert ca"]),
        ("sidegate help ext", ["external"]),
        ("sidegate help external of", ["off"]),
        ("sidegate completion ", ["bash", "zsh", "fish"]),
        ("sidegate app show 'unfinished", []),
    ],
)
async def test_a_word_is_completed(node: MemoryDaemon, line: str, expected: list[str]) -> None:
    assert sorted(await complete(node, line)) == sorted(expected)


async def test_a_file_is_left_to_the_shell(node: MemoryDaemon) -> None:
    assert await complete(node, "sidegate cert add --key ") == ["option -o default"]


@pytest.mark.parametrize("line", ["sidegate app show ", "sidegate env unset shop ", "sidegate external kick shop-db "])
def test_there_is_silence_where_no_daemon_answers(tmp_path: Path, line: str) -> None:
    assert bash(line, tmp_path) == []


async def test_there_is_silence_where_the_daemon_hangs(node: MemoryDaemon) -> None:
    node.logins.stuck = True  # a list of databases with their logins would take three seconds
    assert await complete(node, "sidegate db show ") == ["shop-db"]


@pytest.mark.parametrize("shell", sorted(SCRIPTS))
def test_the_scripts_are_well_formed(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run([shell, "-n"], input=SCRIPTS[shell], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("shell", "expected"), [("zsh", "plain\nevents\n"), ("fish", "plain,events\t")])
def test_other_shells_are_answered_in_their_way(shell: str, expected: str) -> None:
    environ = os.environ | {
        "_SIDEGATE_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "sidegate ev",
        "COMP_CWORD": "1" if shell == "zsh" else "ev",
    }
    done = subprocess.run([SIDEGATE], capture_output=True, text=True, timeout=30, env=environ)
    assert done.stdout.startswith(expected)
