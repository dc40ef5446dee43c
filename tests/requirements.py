"""What Sidegate must do, by number, and the tests that hold it: a test names its numbers (name or docstring)."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = TESTS.parent / "docs/requirements.md"
NUMBER = re.compile(r"\b[RB][1-9][0-9]?\b")
HEAD = """# Requirements and their tests

Written by `scripts/test`. `page`: comes with the page, which is not there yet.

| | requirement | held by |
| --- | --- | --- |
"""

REQUIREMENTS = {
    "R1": "internal and external connections exist, and the words mean the same everywhere",
    "R2": "an external connection gives a host and a port that an ordinary client reaches from another machine",
    "R3": "internal traffic never leaves the private bridge and never passes through a process of ours",
    "R4": "an internal connection is measurably faster than the external one",
    "R5": "the page recommends internal where both ends are here, external where only the database is",
    "R6": "external connections are off until somebody turns one on",
    "R7": "turning it off when not in use is recommended; `--for` and `--idle-off` do it",
    "R8": "an internal connection can be started from the app",
    "R9": "and from the database",
    "R10": "the resulting state is identical",
    "R11": "the page offers a picker of what can be connected",
    "R12": "whatever is not connected can neither resolve nor reach the database",
    "R13": "one option adds the connection's variables to the app",
    "R14": "their values come from the database's own details",
    "R15": "the page says so",
    "R16": "the keys can be renamed before adding",
    "R17": "and later",
    "R18": "without the option nothing is added",
    "R19": "internal connections work at run time",
    "R20": "they are not there during a build",
    "R21": "a build that tries gets a message with the cause and both ways round it",
    "R22": "a start command can connect",
    "R23": "a variable can be for the build only, for run time only, or both",
    "R24": "one key once per disjoint scope; an overlap is refused",
    "R25": "a build variable with the external details works while that is on; a warning when it is off",
    "R26": "an app's port can be set when it is added",
    "R27": "and edited later; traffic follows without a lost request",
    "R28": "a database's internal port is 3306 and cannot be changed, whatever the engine",
    "R29": "`PORT` is set for the app by us",
    "R30": "an app that reads PORT needs no configuration at all",
    "R31": "a deployed app answers publicly on 80 and on 443",
    "R32": "503 while stopped, starting or undeployed, 404 for an unknown host, 502 and 504 for a failing backend",
    "R33": "a connection is removed from either side and by the command line",
    "R34": "a confirmation is asked; cancelling changes nothing",
    "R35": "connectivity ends at once, open sessions included; every other connection goes on",
    "R36": "what becomes of the variables it added is said and chosen",
    "R37": "host, port, user, password, schema are shown",
    "R38": "the command line shown works when pasted",
    "R39": "ordinary database tools connect",
    "R40": "off closes the listener and cuts live sessions; on again gives the same port",
    "R41": "one password per database, changed from either section",
    "R42": "entered or generated",
    "R43": "eight characters, lower, upper, digit, one of the special ones; each unmet rule is named",
    "R44": "a generated password always passes",
    "R45": "the old one fails and the new one works, on both paths",
    "R46": "the answer lists who still holds the old password",
    "B1": "app to app as well, one per pair; duplicates and self-connections refused",
    "B2": "it covers every replica, and later ones before they take traffic",
    "B3": "it takes effect on running containers at once",
    "B4": "values go through literally",
    "B5": "a stale app is marked, and redeploy brings it up to date with no request lost",
    "B6": "`--update-env` updates the variables that Sidegate added, and redeploys",
    "B7": "`--disconnect` ends the sessions that logged in with the old password",
}

ELSEWHERE = {"R4": "`scripts/bench --only internal`", "R5": "page", "R11": "page", "R15": "page"}
"""Lines that no test of the suite can hold, and what does."""


def held() -> dict[str, list[str]]:
    """Number -> the tests that name it, as `path: name`."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                name = node.name.removeprefix("test_")
                words = f"{name.replace('_', ' ')} {ast.get_docstring(node) or ''}"
                for number in dict.fromkeys(NUMBER.findall(words)):
                    found.setdefault(number, []).append(f"{path.relative_to(TESTS)}: {name}")
    return found


def table() -> str:
    """docs/requirements.md, whole."""
    tests = held()
    rows = []
    for number, text in REQUIREMENTS.items():
        cells = [f"`{test}`" for test in tests.get(number, ())]
        cells += [ELSEWHERE[number]] if number in ELSEWHERE else []
        rows.append(f"| {number} | {text} | {'<br>'.join(cells)} |\n")
    return HEAD + "".join(rows)
