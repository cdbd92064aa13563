"""The API client against a server that answers as told."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.api_client import ApiClient, ApiError, UnreachableError, base_url, read_password, read_token


class Server(ThreadingHTTPServer):
    status = 200
    answer = b"{}"
    headers: dict[str, str] = {}  # noqa: RUF012
    seen: tuple[str, str, str, bytes]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen = (self.command, self.path, self.headers["Authorization"], body)
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_GET = do_POST = do_DELETE = do_PATCH = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join(5)


def client(server: Server) -> ApiClient:
    return ApiClient(f"127.0.0.1:{server.server_port}", "pä")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda api: api.get("/api/nodes", lines=3), ("GET", "/api/nodes?lines=3", b"")),
        (lambda api: api.post("/api/users", {"a": 1}), ("POST", "/api/users", b'{"a": 1}')),
        (lambda api: api.delete("/api/users/x"), ("DELETE", "/api/users/x", b"")),
        (lambda api: api.patch("/api/users/x", {"a": None}), ("PATCH", "/api/users/x", b'{"a": null}')),
    ],
)
def test_requests(server: Server, call: Any, expected: tuple[str, str, bytes]) -> None:
    server.answer = b'{"x": 1}'
    assert call(client(server)) == {"x": 1}
    method, path, authorization, body = server.seen
    assert (method, path, body) == expected
    assert base64.b64decode(authorization.removeprefix("Basic ")).decode() == "admin:pä"


def test_the_environments_proxy_is_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert client(server).get("/x") == {}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (409, json.dumps({"detail": "no slot"}).encode(), r"^no slot \(409\)$"),
        (502, b"<html>", r"^Bad Gateway \(502\)$"),
        (200, b"<html>", r"^no usable answer from http://127"),
    ],
)
def test_refusals(server: Server, status: int, answer: bytes, expected: str) -> None:
    server.status, server.answer = status, answer
    with pytest.raises(ApiError, match=expected):
        client(server).get("/x")


def test_a_refusal_names_its_request(server: Server) -> None:
    server.status, server.answer, server.headers = 503, b'{"detail": "Redis is down"}', {"X-Request-ID": "7f3c"}
    with pytest.raises(ApiError, match=r"^Redis is down \(503, request 7f3c\)$") as refusal:
        client(server).get("/x")
    assert (refusal.value.status, refusal.value.exit_code) == (503, 1)
    server.headers = {"X-Request-ID": "\x1b[2J"}
    with pytest.raises(ApiError, match=r"^Redis is down \(503\)$"):
        client(server).get("/x")


def test_a_redirect_is_not_followed(server: Server) -> None:
    server.status, server.headers = 302, {"Location": f"http://127.0.0.1:{server.server_port}/elsewhere"}
    with pytest.raises(ApiError, match=r"\(302\)$"):
        client(server).get("/x")
    assert server.seen[1] == "/x"


def test_tokens_go_as_bearer(server: Server, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("vx_secret\n")
    ApiClient(f"127.0.0.1:{server.server_port}", token=read_token(tmp_path / "token")).get("/x")
    assert server.seen[2] == "Bearer vx_secret"


@pytest.mark.parametrize("content", [b"", b"two words", b"a\r\nX-Evil: 1", b"\xff\xfe", b"x" * 10_000])
def test_token_files_that_hold_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ApiError, match=r"holds no API token: make one with `vpnexit tokens add`$"):
        read_token(tmp_path / "token")
    with pytest.raises(ApiError, match=r"cannot read the API token .*: No such file or directory$"):
        read_token(tmp_path / "none")


@pytest.mark.parametrize(
    "address",
    ["", "ftp://x", "http://", "x:99999", "x:0", "http://u:p@x", "http://x/?a", "h ost:1", "\udcff:1", "ü", "x" * 3000],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValueError, match="write an address such as"):
        base_url(address)


def test_addresses() -> None:
    assert base_url("127.0.0.1:8080") == "http://127.0.0.1:8080"
    assert base_url("[::1]:8080") == "http://[::1]:8080"
    assert base_url("https://vpn.example.org/base/") == "https://vpn.example.org/base"


def test_silence_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UnreachableError, match=r"within 0.1 s$|timed out"):
            ApiClient(address, "x", timeout=0.1).get("/x")


def test_nobody_there() -> None:
    with pytest.raises(ApiError, match=r"^no answer from http://127\.0\.0\.1:1: Connection refused; is it running\?$"):
        ApiClient("127.0.0.1:1", "x").get("/x")


def test_password(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"cannot read the API's password .*: start vpnexit first, or name its state"):
        read_password(tmp_path)
    (tmp_path / "admin.password").write_text("abc\n")
    assert read_password(tmp_path) == "abc"
