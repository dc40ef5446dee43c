"""The OpenAPI 3.1 document of the control API, made from the table of calls and the schemas: it cannot disagree.

Every error is a problem document (RFC 9457) with a stable `code`. Calls that take long answer in lines where the caller
accepts application/x-ndjson, and events are a stream of server-sent events.
"""

import copy
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from sidegate.api import described
from sidegate.api.calls import CALLS, Call
from sidegate.api.schemas import ProblemDocument
from sidegate.api.sse import EVENT_STREAM
from sidegate.api.streams import NDJSON
from sidegate.errors import SidegateError

REF = "#/components/schemas/{name}"
PROBLEM_TYPE = "application/problem+json"
ANY_CALL = ("invalid", "failed", "internal")
TOO_LARGE, METHOD = "too-large", "method-not-allowed"
FOREIGN = {"internal": 500, TOO_LARGE: 413}
"""Codes that no error of ours has."""

Json = dict[str, Any]


def document(version: str) -> Json:
    """The document, ready for JSON. Source: https://spec.openapis.org/oas/v3.1.0."""
    kinds = [kind for call in CALLS for kind in (call.result, call.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*kinds, ProblemDocument], ref_template=REF)
    by_kind = {repr(kind): schema for kind, schema in zip([*kinds, ProblemDocument], schemas, strict=True)}
    for name, limits in described.LIMITS.items():
        if name in components:
            for field, limit in limits.items():
                _limit(components[name]["properties"][field], limit)
    for name, example in described.EXAMPLES.items():
        components[name]["examples"] = [example]
    paths: dict[str, Json] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sidegate", "version": version, "description": __doc__},
        "servers": [{"url": "http://sidegate", "description": "the control socket, HTTP/1.1 over AF_UNIX"}],
        "paths": paths,
        "components": {"schemas": components, "responses": _problem_responses(by_kind[repr(ProblemDocument)])},
    }


def _operation(call: Call, by_kind: Mapping[str, Json]) -> Json:
    operation: Json = {
        "operationId": "-or-".join(verb.replace(" ", "-") for verb in call.verbs),
        "summary": call.summary,
        "tags": [call.path.removeprefix("/v1").split("/")[1]],
        "x-sidegate-verbs": list(call.verbs),
        "parameters": [*_path_parameters(call), *_query_parameters(call), *_header_parameters(call)],
        "responses": {"200": {"description": call.summary, "content": _content(call, by_kind)}, **_problems(call)},
    }
    if call.streams:
        operation["description"] = (
            f"Takes its time: who accepts {NDJSON} is told how it gets on, in lines, the last of which has the result "
            "or the problem. An error before the first line is a problem with its own status."
        )
    if call.body is not None:
        content: Json = {"schema": by_kind[repr(call.body)]}
        if example := described.EXAMPLES.get(call.body.__name__):
            content["example"] = example
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    elif call.upload:
        upload = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": {call.upload: upload}}
    return operation


def _content(call: Call, by_kind: Mapping[str, Json]) -> Json:
    """What a call that went well answers with, by media type."""
    content: Json = {"application/json": {"schema": by_kind[repr(call.result)]}}
    if call.result is str:
        content = {"text/plain": {"schema": {"type": "string"}}}
    if "env export" in call.verbs:
        content["text/plain"] = {"schema": {"type": "string"}}
        exported = {"type": "object", "additionalProperties": {"type": "string"}}
        content["application/json"]["schema"] = {"anyOf": [by_kind[repr(call.result)], exported]}
    if call.streams:
        content[NDJSON] = {"schema": _line(by_kind[repr(call.result)], by_kind[repr(ProblemDocument)])}
    if call.events:
        content[EVENT_STREAM] = {"schema": {"description": _EVENTS, **_EVENT_FIELDS}, "example": _EVENT}
    return content


_EVENTS = (
    "Server-sent events (WHATWG HTML). `event` is the kind, `id` rises, `data` is an EventView as JSON. Comments are "
    "signs of life. `lost`, which has no id, says that events are missing: the follower came too late, or was too "
    "slow, and in that case the stream ends. Served unless the caller asks for application/json alone."
)
_EVENT_FIELDS: Json = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": {"type": "string"}},
}
_EVENT = (
    "event: app.available\nid: 1785000000000000\n"
    'data: {"id":1785000000000000,"at":1785000000.1,"kind":"app.available","subject":"shop","text":"takes requests",'
    '"details":{"serving":2}}\n\n'
)


def _problems(call: Call) -> dict[str, Json]:
    """How a call fails: by status, with the codes that it may have then."""
    codes = [*ANY_CALL, *described.PROBLEMS.get(f"{call.method} {call.path}", ())]
    if call.body is not None:
        codes.append(TOO_LARGE)
    statuses = _statuses()
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(statuses[code], []).append(code)
    return {
        str(status): {
            "description": f"{HTTPStatus(status).phrase}: {', '.join(found)}",
            "content": {PROBLEM_TYPE: {"schema": _problem_schema(status, found)}},
        }
        for status, found in sorted(by_status.items())
    }


def _problem_schema(status: int, codes: list[str]) -> Json:
    narrowed = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
    return {"allOf": [{"$ref": REF.format(name="ProblemDocument")}, narrowed]}


def _problem_responses(schema: Json) -> Json:
    """What is no call's own: a method that a path does not have, and what is no HTTP."""
    content = {PROBLEM_TYPE: {"schema": schema}}
    return {
        "MethodNotAllowed": {"description": f"405: {METHOD}; Allow says which are served", "content": content},
        "BadRequest": {"description": "400: bad-request, for what is no HTTP", "content": content},
    }


def _statuses() -> dict[str, int]:
    """Code -> HTTP status, of every error of ours."""
    found = dict(FOREIGN)

    def add(kind: type[SidegateError]) -> None:
        found[kind.code] = kind.status
        for below in kind.__subclasses__():
            add(below)

    add(SidegateError)
    return found


def _line(result: Json, problem: Json) -> Json:
    """One line of an answer that streams; the last one has a result or a problem, and `{}` only says: still at it."""
    return {
        "description": "lines of JSON: progress while the call is at it, then its result or a problem",
        "type": "object",
        "properties": {"progress": {"type": "string"}, "result": result, "problem": problem},
        "maxProperties": 1,
    }


def _path_parameters(call: Call) -> list[Json]:
    found = []
    for name in re.findall(r"\{(\w+)\}", call.path):
        text, limit = described.PATHS.get(name, ("", {}))
        schema = {"type": "string", **limit}
        found.append({"name": name, "in": "path", "required": True, "description": text, "schema": schema})
    return found


def _query_parameters(call: Call) -> list[Json]:
    """What a query may have. It has no null: what is left out is left out."""
    kind = call.query.__name__
    schema = msgspec.json.schema(call.query)["$defs"][kind]
    found = []
    for name, given in schema["properties"].items():
        shape = copy.deepcopy(given)
        _limit(shape, described.LIMITS.get(kind, {}).get(name, {}))
        if "anyOf" in shape:
            shape = next(part for part in shape["anyOf"] if part.get("type") != "null")
        described_as = described.QUERIES.get(kind, {}).get(name, "")
        parameter = {"name": name, "in": "query", "description": described_as, "schema": shape}
        found.append(parameter | ({"required": True} if name in schema.get("required", ()) else {}))
    return found


def _header_parameters(call: Call) -> list[Json]:
    if not call.events:
        return []
    text = "of a stream: the id of the last event that a follower saw who comes again; it goes on after that"
    schema = {"type": "string", "pattern": "^[0-9]{1,19}$"}
    return [{"name": "Last-Event-ID", "in": "header", "required": False, "description": text, "schema": schema}]


def _limit(shape: Json, limit: Mapping[str, Any]) -> None:
    """Narrow a field's schema, or the part of it that is not null."""
    parts = [part for part in shape.get("anyOf", ()) if part.get("type") != "null"]
    (parts[0] if parts else shape).update(limit)
