"""Asks the control API, for the command line. Blocking: one question, one answer; or a stream of events."""

import base64
import contextlib
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from deploy import sse

TIMEOUT_S = 30.0
# A stream of events says at least that it lives, so a longer silence is a connection that was lost.
SILENCE_S = 60.0
USER = "admin"
MAX_ANSWER = 64 * 1024 * 1024
_TOKEN = re.compile(r"[!-~]{1,4096}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class ApiError(Exception):
    """The API refused, or failed; the text is one line. `status` is HTTP's, 0 where there is none."""

    exit_code = 1

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class UnreachableError(ApiError):
    """No API answered."""

    exit_code = 3


class ApiClient:
    """One control API. `address` is host:port or an http(s):// URL. A token goes before the password.

    `who` says, where the log-in is refused, what it was; `where`, where nobody answers, why this address was asked.
    """

    def __init__(
        self,
        address: str,
        password: str = "",
        token: str = "",
        timeout: float = TIMEOUT_S,
        who: str = "",
        where: str = "",
    ) -> None:
        self.base = base_url(address)
        self._who = who
        self._where = f" ({where})" if where else ""
        basic = "Basic " + base64.b64encode(f"{USER}:{password}".encode()).decode()
        self._authorization = f"Bearer {token}" if token else basic
        self._timeout = timeout
        # The environment's http_proxy may be this very product; a redirect would carry the password elsewhere.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)

    def get(self, path: str, **query: str | int) -> Any:
        return self._ask("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", path, body)

    def put(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self._ask("DELETE", path)

    def events(self, path: str, last_id: str = "") -> Iterator[sse.Event]:
        """Events after `last_id`, until the connection ends.

        Raises:
            UnreachableError: there was no connection, or it broke.
            ApiError: the API refuses.
        """
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id
        with self._open("GET", path, headers, None, SILENCE_S) as response:
            if response.headers.get_content_type() != "text/event-stream":
                raise UnreachableError(f"no usable answer from {self.base}: {path} is no stream of events")
            # One byte more than the longest, so that a longer line is seen to be one.
            yield from sse.parse(iter(lambda: response.readline(sse.LONGEST_LINE + 1), b""), last_id)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The decoded answer; None where there is no content. Raises ApiError."""
        headers = {"Accept": "application/json"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        with self._open(method, path, headers, data, self._timeout) as response:
            text = response.read(MAX_ANSWER + 1)
            if len(text) > MAX_ANSWER:
                raise ValueError("it is larger than 64 MiB")
            return json.loads(text) if text else None

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, headers: dict[str, str], data: bytes | None, timeout: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer, while inside. What goes wrong there, too, is an ApiError."""
        headers = {"Authorization": self._authorization, **headers}
        try:
            request = urllib.request.Request(self.base + path, data, headers, method=method)  # noqa: S310
            with self._opener.open(request, timeout=timeout) as response:
                yield response
        except urllib.error.HTTPError as error:
            raise _refused(error, f"; asked {self.base} {self._who}".rstrip()) from None
        except urllib.error.URLError as error:
            why = f"{_plain(error.reason)}; is it running?{self._where}"
            raise UnreachableError(f"no answer from {self.base}: {why}") from None
        except TimeoutError:
            raise UnreachableError(f"no answer from {self.base} within {timeout:g} s") from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UnreachableError(f"no usable answer from {self.base}: {_plain(error)}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Every redirect is a refusal."""

    def redirect_request(self, *_: Any) -> None:
        return None


def base_url(address: str) -> str:
    """The URL before /api of `host:port` or an http(s):// URL. Raises ValueError, saying what to write."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.username is None and parts.port != 0
        good = good and not (parts.query or parts.fragment)
    except ValueError:
        good = False
    if not good or not url.isascii() or not url.isprintable() or " " in url or len(url) > 2000:
        raise ValueError("write an address such as 127.0.0.1:8080, or a URL such as https://vpn.example.org")
    return url


def password_file(state_dir: Path) -> Path:
    """Where control keeps the password that it generated."""
    return state_dir / "admin.password"


def read_password(state_dir: Path) -> str:
    """The password that control generated. Raises ApiError."""
    path = password_file(state_dir)
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or "?") if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ApiError(
            f"cannot read the API's password {path} ({why}): start vpnexit first, "
            "or name its state directory with --state-dir, or use --token-file"
        ) from None


def read_token(path: Path) -> str:
    """An API token from its file. Raises ApiError; its text never holds what the file does."""
    try:
        with path.open("rb") as file:
            token = file.read(8192).decode("ascii", errors="replace").strip()
    except OSError as error:
        raise ApiError(f"cannot read the API token {path}: {error.strerror}") from None
    if not _TOKEN.fullmatch(token):
        raise ApiError(f"{path} holds no API token: make one with `vpnexit tokens add`")
    return token


def _refused(error: urllib.error.HTTPError, asked: str) -> ApiError:
    """The API's own words, the number by which its log knows the request, and who asked where that was the matter."""
    with error:
        try:
            body = json.loads(error.read(MAX_ANSWER))
            detail = str(body["detail"])
        except (OSError, ValueError, TypeError, KeyError, http.client.HTTPException):
            detail = error.reason
        number = error.headers.get("X-Request-ID", "")
    known = f", request {number}" if _REQUEST_ID.fullmatch(number) else ""
    return ApiError(f"{detail} ({error.code}{known}{asked if error.code == 401 else ''})", error.code)


def _plain(reason: Any) -> str:
    return reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
