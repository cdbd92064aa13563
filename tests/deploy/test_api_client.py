"""The API client against a server that answers as told."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.api_client import ApiClient, ApiError, read_password


class Server(ThreadingHTTPServer):
    status = 200
    answer = b"{}"
    seen: tuple[str, str, str, bytes]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen = (self.command, self.path, self.headers["Authorization"], body)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.answer)

    do_GET = do_POST = do_DELETE = _answer

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


def test_nobody_there() -> None:
    with pytest.raises(ApiError, match=r"^no answer from http://127\.0\.0\.1:1: Connection refused; is it running\?$"):
        ApiClient("127.0.0.1:1", "x").get("/x")


def test_password(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"cannot read the API's password .*: start vpnexit first, or name its state"):
        read_password(tmp_path)
    (tmp_path / "admin.password").write_text("abc\n")
    assert read_password(tmp_path) == "abc"
