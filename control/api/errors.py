"""Every refusal in one form: `{"detail": text, "status": number, "reason": word}`."""

from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from control.engine import EngineError
from control.fleet import FleetError, InvalidPoolError, NotFoundError, UnavailableError
from control.providers import ProviderError
from health.registry import RegistryError, StaleVersionError

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


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


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into the one form; what nobody foresaw is logged and told without its details."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _from_aiohttp(error)
    except Exception as error:
        told = _translated(error)
        if told is None:
            log.exception("api_error", method=request.method, path=request.path)
            told = ApiError(500, "internal", "internal error, see the log")
        return refusal(told)


def refusal(error: ApiError) -> web.Response:
    """The response that tells `error`."""
    body = {"detail": error.detail, "status": error.status, "reason": error.reason}
    return web.json_response(body, status=error.status, headers=error.headers)


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
            return ApiError(400, error.reason, text)
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
