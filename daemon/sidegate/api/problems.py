"""Errors as problem documents (RFC 9457)."""

from http import HTTPStatus

from aiohttp import web

from sidegate.api.schemas import ProblemDocument
from sidegate.errors import SidegateError
from sidegate.log import get_logger

BODY_MOST = 1 << 20  # bytes of a request's body
log = get_logger("api")


def problem_document(error: BaseException, request: web.Request) -> ProblemDocument:
    """What a caller is told of an error. One that nobody expected goes to the log, and nothing of it to the caller."""
    match error:
        case SidegateError():
            return _problem(error.status, error.code, str(error))
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            detail = f"{error.method} is not served on {request.path}, but {allowed} is"
            return _problem(error.status, "method-not-allowed", detail)
        case web.HTTPRequestEntityTooLarge():
            return _problem(error.status, "too-large", f"a request's body may have {BODY_MOST} bytes at most")
        case web.HTTPNotFound():
            detail = f"there is no call {request.path}: see /v1/openapi.json"
            return _problem(error.status, "no-such-call", detail)
        case web.HTTPException():
            return _problem(error.status, "bad-request", error.reason)
    log.error("a call failed unexpectedly", method=request.method, path=request.path, exc_info=error)
    return _problem(500, "internal", "the daemon met an error that it did not expect: its log says more")


def _problem(status: int, code: str, detail: str) -> ProblemDocument:
    return ProblemDocument(title=HTTPStatus(status).phrase, status=status, code=code, detail=detail)
