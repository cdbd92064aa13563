"""Asks the control API, for the command line. Blocking: one question, one answer."""

import base64
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

TIMEOUT_S = 30.0
USER = "admin"


class ApiError(Exception):
    """The API did not answer, or refused; the text is one line."""


class ApiClient:
    """One control API. `address` is host:port or an http(s):// URL."""

    def __init__(self, address: str, password: str) -> None:
        self._base = (address if "://" in address else f"http://{address}").rstrip("/")
        self._authorization = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        # The environment's http_proxy may be this very product.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, **query: str | int) -> Any:
        return self._ask("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PUT", path, body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The decoded answer. Raises ApiError."""
        headers = {"Authorization": self._authorization, "Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            request = urllib.request.Request(self._base + path, data, headers, method=method)  # noqa: S310
            with self._opener.open(request, timeout=TIMEOUT_S) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise ApiError(_refusal(error)) from None
        except urllib.error.URLError as error:
            raise ApiError(f"no answer from {self._base}: {_plain(error.reason)}; is it running?") from None
        except (OSError, ValueError) as error:
            raise ApiError(f"no usable answer from {self._base}: {error}") from None


def read_password(state_dir: Path) -> str:
    """The password that control generated. Raises ApiError."""
    path = state_dir / "admin.password"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ApiError(
            f"cannot read the API's password {path} ({error.strerror}): start vpnexit first, "
            "or name its state directory with VPNEXIT_STATE_DIR"
        ) from None


def _refusal(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            detail = json.loads(error.read())["detail"]
        except (OSError, ValueError, TypeError, KeyError):
            detail = error.reason
    return f"{detail} ({error.code})"


def _plain(reason: Any) -> str:
    return reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
