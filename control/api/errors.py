"""Every refusal in one form: `{"detail": text, "status": number, "reason": word}`."""

import json

import structlog
from aiohttp import web

from control.engine import EngineError
from control.fleet import FleetError, InvalidPoolError, NotFoundError, UnavailableError
from control.providers import ProviderError
from health.registry import RegistryError, StaleVersionError

log = structlog.get_logger()


REASON = web.ResponseKey("reason", str)
"""The word of a refusal, on its response."""


class ApiError(Exception):
    """A refusal with its HTTP status and a word for programs."""

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = headers


def bad_request(detail: str, reason: str = "bad_request") -> ApiError:
    """400."""
    return ApiError(400, reason, detail)


def told(error: Exception, method: str, path: str, request_id: str) -> web.Response:
    """The answer to any exception; what nobody foresaw is logged and told without its details."""
    if isinstance(error, web.HTTPException):
        return _from_aiohttp(error)
    known = _translated(error)
    if known is None:
        log.exception("api_error", method=method, path=path[:200], request_id=request_id)
        known = ApiError(500, "internal", f"internal error, see the log for request {request_id}")
    return refusal(known)


def body_of(error: ApiError) -> bytes:
    """`error` as JSON."""
    return json.dumps({"detail": error.detail, "status": error.status, "reason": error.reason}).encode()


def refusal(error: ApiError) -> web.Response:
    """The response that tells `error`."""
    body = body_of(error)
    response = web.Response(
        body=body, status=error.status, content_type="application/json", charset="utf-8", headers=error.headers
    )
    response[REASON] = error.reason
    return response


def _translated(error: Exception) -> ApiError | None:
    text = str(error)
    match error:
        case ApiError():
            return error
        case NotFoundError():
            return ApiError(404, error.reason, text)
        case UnavailableError():
            return ApiError(503, error.reason, text)
        case InvalidPoolError():
            return ApiError(422, "contradiction", text)
        case FleetError():
            return ApiError(409, error.reason, text)
        case StaleVersionError():
            return ApiError(409, "stale_version", text)
        case ProviderError():
            return ApiError(503, "no_server", text)
        case RegistryError():
            return ApiError(503, "registry_down", text)
        case EngineError():
            return ApiError(503, "engine_down", text)
        case _:
            return None


def _from_aiohttp(error: web.HTTPException) -> web.Response:
    words = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    texts = {
        404: "there is no such path",
        405: "this path does not take that method",
        413: "the request body is larger than 64 KiB",
    }
    allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
    status = error.status
    return refusal(ApiError(status, words.get(status, "bad_request"), texts.get(status, error.reason or ""), allow))
