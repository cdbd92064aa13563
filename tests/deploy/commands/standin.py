"""A control API that answers with the bodies of the architecture page, as a test tells it to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REQUEST_ID = "7f3c9a01"


def node(node_id: str = "jp3f9a1c", **changes: Any) -> dict[str, Any]:
    """One node as GET /api/nodes shows it."""
    return {
        "id": node_id,
        "country": node_id[:2],
        "city": "Tokyo",
        "kind": "vpn",
        "machine": "local",
        "status": "running",
        "state": "serving",
        "slot": f"{node_id[:2]}-0",
        "protocol": "openvpn_udp",
        "vpn_server": "jp514.nordvpn.com",
        "upstream": None,
        "tailscale_hostname": None,
        "tailscale_ip": None,
        "started_at": "2026-11-25T12:00:00.000+00:00",
        "vpn_connected": True,
        "tailscale_connected": False,
        "health_status": "healthy",
        "score": 87.25,
        "exit_ip": "198.18.10.11",
        "exit_country": "jp",
        "reason": "",
        "metrics": {"vpn_connected": True, "network_rx": 1000, "network_tx": 2000, "probe_ms": 12.5, "loss": 0.0},
    } | changes


def pool(country: str = "jp", **changes: Any) -> dict[str, Any]:
    """One pool as GET /api/pools/{country} shows it."""
    return {
        "country": country,
        "name": "Japan",
        "port": 10392,
        "desired": 1,
        "min": 0,
        "max": 10,
        "strategy": "health_score",
        "provider": "nordvpn",
        "protocol": "openvpn_udp",
        "fallback": [],
        "version": 3,
        "nodes": ["jp3f9a1c"],
        "serving": 1,
        "reason": "",
    } | changes


Answer = tuple[int, Any]
Told = Answer | Callable[["Asked"], Answer]


class Asked:
    """One request."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method, self.target = handler.command, handler.path
        self.headers = handler.headers
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        self.body: Any = json.loads(raw) if raw else None

    def __str__(self) -> str:
        return f"{self.method} {self.target}"


class StandIn(ThreadingHTTPServer):
    """`answers`: status and body by `GET /api/…`; a list is gone through, its last one stays. `streams`: parts of
    event streams, a list for each connection to come; "wait" keeps one open."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Told | list[Told]] = {}
        self.streams: list[list[str]] = []
        self.asked: list[Asked] = []
        self.ending = threading.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def bodies(self, what: str) -> list[Any]:
        return [asked.body for asked in self.asked if str(asked) == what]

    def answer(self, asked: Asked) -> Answer:
        told = self.answers.get(str(asked), (404, {"detail": "there is no such path", "status": 404, "reason": "x"}))
        if isinstance(told, list):
            told = told.pop(0) if len(told) > 1 else told[0]
        return told(asked) if callable(told) else told


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def _answer(self) -> None:
        asked = Asked(self)
        self.server.asked.append(asked)
        if self.path == "/api/events" and self.server.streams:
            return self._stream(self.server.streams.pop(0))
        status, body = self.server.answer(asked)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("X-Request-ID", REQUEST_ID)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def _stream(self, parts: list[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        for part in parts:
            if part == "wait":
                self.server.ending.wait(30)
                return
            self.wfile.write(part.encode())

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def standing_in() -> Iterator[StandIn]:
    with StandIn() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.ending.set()
            made.shutdown()
            thread.join(5)
