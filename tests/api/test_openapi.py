"""The OpenAPI document, held to the daemon: requests made from it, right and wrong ones, and what must come back."""

import asyncio
import contextlib
import json
import threading
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, seed, settings
from openapi_spec_validator import validate

from memory_daemon import MemoryDaemon, running
from sidegate.adapters.certificates import Certificates
from sidegate.api import described, openapi, own_databases
from sidegate.api.calls import CALLS
from sidegate.api.http import application

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the libraries that it imports
    import schemathesis
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks


def not_an_error_of_ours(_: Any, response: Any, __: Any) -> None:
    """What 502 and 503 say is wrong with others, as in a world where no image has a program; 500 is never right."""
    assert response.status_code != HTTPStatus.INTERNAL_SERVER_ERROR, response.text


CHECKS = [
    not_an_error_of_ours,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXCLUDED = {
    "POST /v1/purge": "it removes everything, and the daemon under test with it",
    "POST /v1/apps/{app}/builds": "its body is an archive that is passed on as it comes, whatever it is",
}
"""Calls that are not made from the document, and why; tests of their own make them."""

METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}
EXAMPLES = 12  # of each kind, for each call
DOCUMENT = openapi.document("0.0.0-test")
OPERATIONS = [f"{call.method} {call.path}" for call in CALLS]
ASKED = sorted({*OPERATIONS} - EXCLUDED.keys())


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """A node in memory with an app, a database, a connection and variables, over TCP; gives its address."""
    source = Certificates(directory / "certificates", directory / "authority", base_domain="localhost", managed=True)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(source.close)
        daemon = await stack.enter_async_context(running(directory, certificates=source))
        await _furnish(daemon)
        runner = web.AppRunner(application(daemon.commands), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


async def _furnish(daemon: MemoryDaemon) -> None:
    # Nobody waits here for what does not become well.
    daemon.rollouts._tools = replace(daemon.tools, healthy=0.1, drain=0.1)
    daemon.app("shop")
    daemon.app("blog")
    daemon.database("shop-db")
    await daemon.settled()
    await daemon.connect("shop", "shop-db", env=True)
    await daemon.commands.externals.on("shop-db")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The node, on a loop of its own in a thread: what asks it waits."""
    found: list[str] = []
    up, stop = threading.Event(), threading.Event()
    patience = pytest.MonkeyPatch()
    patience.setattr(own_databases, "LOGIN_SECONDS", 0.1)

    async def serve() -> None:
        async with served(Path(tmp_path_factory.mktemp("node"))) as where:
            found.append(where)
            up.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="node")
    thread.start()
    try:
        assert up.wait(30)
        yield found[0]
    finally:
        stop.set()
        thread.join(30)
        patience.undo()


def test_the_document_is_valid_and_complete() -> None:
    """Every parameter, every body and every answer is described, every call says how it fails."""
    validate(json.loads(json.dumps(DOCUMENT)))
    for call in CALLS:
        operation = DOCUMENT["paths"][call.path][call.method.lower()]
        for parameter in operation["parameters"]:
            assert parameter["description"], (call.path, parameter["name"])
        assert {"200", "422", "500"} <= operation["responses"].keys()
        if call.body is not None:
            assert (
                described.EXAMPLES[call.body.__name__]
                == operation["requestBody"]["content"]["application/json"]["example"]
            )
        if call.streams:
            assert "application/x-ndjson" in operation["responses"]["200"]["content"]
        if call.events:
            assert "text/event-stream" in operation["responses"]["200"]["content"]
    assert len({o["operationId"] for path in DOCUMENT["paths"].values() for o in path.values()}) == len(CALLS)


def test_nothing_is_described_that_is_not_there() -> None:
    components = DOCUMENT["components"]["schemas"]
    assert described.EXAMPLES.keys() <= components.keys()
    queries = {call.query.__name__ for call in CALLS}
    assert described.QUERIES.keys() <= queries
    assert described.LIMITS.keys() <= components.keys() | queries
    assert described.PROBLEMS.keys() <= {*OPERATIONS}


def load(address: str) -> Any:
    return schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT)), config=None)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("operation", ASKED)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_the_daemon_does_what_the_document_says(address: str, operation: str, mode: GenerationMode) -> None:
    """Right requests get a documented answer; wrong ones are refused, with a documented problem."""
    method, path = operation.split(" ")
    found = load(address)[path][method]
    if mode is GenerationMode.NEGATIVE and not (found.query or found.path_parameters or found.body):
        pytest.skip("there is nothing to say wrongly")
    wanted = [*CHECKS, *([checks.negative_data_rejection] if mode is GenerationMode.NEGATIVE else [])]
    session = requests.Session()

    @seed(7)
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=found.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        # A stream of events would have no end; one of lines is held by the tests of streams.
        response = case.call(base_url=address, session=session, headers={"Accept": "application/json"}, timeout=20)
        case.validate_response(response, checks=wanted)

    with session:
        ask()


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_methods_that_are_not_described_are_refused(address: str, path: str) -> None:
    described_methods = {method.upper() for method in DOCUMENT["paths"][path]}
    target = path.replace("{", "").replace("}", "")
    if path == "/v1/certificates/authority":  # it is a name, too, which no certificate can have
        described_methods |= {method.upper() for method in DOCUMENT["paths"]["/v1/certificates/{name}"]}
    for method in sorted(METHODS - described_methods):
        answer = requests.request(method, address + target, timeout=20)
        assert answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        assert answer.headers["Allow"] == ", ".join(sorted(described_methods))
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "method-not-allowed"


def test_the_daemon_serves_this_document(address: str) -> None:
    assert requests.get(f"{address}/v1/openapi.json", timeout=20).json() == json.loads(json.dumps(DOCUMENT))
