"""The OpenAPI 3.1 document of the control API, made from the table of calls and the schemas: it cannot disagree."""

import re
from http import HTTPStatus
from typing import Any

import msgspec

from sidegate.api.calls import CALLS, Call
from sidegate.api.schemas import ProblemDocument
from sidegate.api.streams import NDJSON

REF = "#/components/schemas/{name}"
PROBLEM_TYPE = "application/problem+json"


def document(version: str) -> dict[str, Any]:
    """The document, ready for JSON. Source: https://spec.openapis.org/oas/v3.1.0."""
    kinds = [kind for call in CALLS for kind in (call.result, call.body) if kind is not None]
    schemas, components = msgspec.json.schema_components([*kinds, ProblemDocument], ref_template=REF)
    by_kind = {repr(kind): schema for kind, schema in zip([*kinds, ProblemDocument], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for call in CALLS:
        paths.setdefault(call.path, {})[call.method.lower()] = _operation(call, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sidegate", "version": version, "description": __doc__},
        "servers": [{"url": "http://sidegate", "description": "the control socket, HTTP/1.1 over AF_UNIX"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(call: Call, by_kind: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": by_kind[repr(call.result)]}}
    if call.result is str:
        content = {"text/plain": {"schema": {"type": "string"}}}
    if "env export" in call.verbs:
        content["text/plain"] = {"schema": {"type": "string"}}
        content["application/json"]["schema"] = {
            "anyOf": [by_kind[repr(call.result)], {"type": "object", "additionalProperties": {"type": "string"}}]
        }
    if call.streams:
        content[NDJSON] = {"schema": _line(by_kind[repr(call.result)], by_kind[repr(ProblemDocument)])}
    problem = {PROBLEM_TYPE: {"schema": by_kind[repr(ProblemDocument)]}}
    operation: dict[str, Any] = {
        "operationId": "-or-".join(verb.replace(" ", "-") for verb in call.verbs),
        "summary": call.summary,
        "x-sidegate-verbs": list(call.verbs),
        "parameters": [*_path_parameters(call), *_query_parameters(call)],
        "responses": {
            "200": {"description": HTTPStatus.OK.phrase, "content": content},
            "default": {"description": "a problem (RFC 9457)", "content": problem},
        },
    }
    if call.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_kind[repr(call.body)]}},
        }
    elif call.upload:
        operation["requestBody"] = {"required": True, "content": {call.upload: {}}}
    return operation


def _line(result: dict[str, Any], problem: dict[str, Any]) -> dict[str, Any]:
    """One line of an answer that streams; the last one has a result or a problem, and `{}` only says: still at it."""
    return {
        "description": "lines of JSON: progress while the call is at it, then its result or a problem",
        "type": "object",
        "properties": {"progress": {"type": "string"}, "result": result, "problem": problem},
        "maxProperties": 1,
    }


def _path_parameters(call: Call) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", call.path)
    ]


def _query_parameters(call: Call) -> list[dict[str, Any]]:
    schema = msgspec.json.schema(call.query)["$defs"][call.query.__name__]
    return [{"name": name, "in": "query", "schema": shape} for name, shape in schema["properties"].items()]
