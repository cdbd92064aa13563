"""A Unix socket that speaks as much of the Docker Engine API as doctor asks for."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


class DockerSocket(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    version = "20.10.24"
    info: dict[str, Any] = {"LiveRestoreEnabled": True, "Swarm": {"LocalNodeState": "inactive"}}  # noqa: RUF012
    objects = ("/images/vpnexit-exit/json", "/networks/vpnexit-uplink")


class _Handler(BaseHTTPRequestHandler):
    server: DockerSocket  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.removeprefix("/v1.41")
        if path == "/version":
            return self._send(200, {"Version": self.server.version, "ApiVersion": "1.41", "MinAPIVersion": "1.12"})
        if path == "/info":
            return self._send(200, self.server.info)
        there = path in self.server.objects
        return self._send(200 if there else 404, {"Id": "1"} if there else {"message": f"No such image: {path}"})

    def _send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def docker_socket(path: Path) -> Iterator[DockerSocket]:
    with DockerSocket(str(path), _Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join(5)
