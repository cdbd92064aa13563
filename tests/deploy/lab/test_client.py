import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.client import ControlClient, seen_address
from deploy.lab.shell import LabError
from deploy.lab.state import Memory, Place, choose_ports


class _Server(ThreadingHTTPServer):
    answers: dict[str, tuple[int, Any]]
    seen: list[tuple[str, str, dict[str, str], Any]]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), json.loads(body) if body else None))
        status, answer = self.server.answers.get(f"{self.command} {self.path}", (404, {"detail": "no"}))
        data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as made:
        made.answers, made.seen = {}, []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def memory(server: _Server) -> Memory:
    port = server.server_address[1]
    ports = choose_ports(port, port, port)
    return Memory(docker_host="unix:///d", own_engine=True, made_blackhole=False, ports=ports, password="pw")


@pytest.fixture
def control(server: _Server, memory: Memory, tmp_path: Path) -> ControlClient:
    (tmp_path / "admin.password").write_text("secret\n")
    return ControlClient(Place(tmp_path), memory)


def test_the_proxy_user_is_made_once(server: _Server, control: ControlClient) -> None:
    server.answers = {"GET /api/users": (200, []), "POST /api/users": (201, {"name": "lab"})}
    control.create_user("pw")
    assert server.seen[-1][3] == {"name": "lab", "password": "pw"}
    server.answers = {"GET /api/users": (200, [{"name": "lab"}])}
    control.create_user("pw")
    assert server.seen[-1][0] == "GET"


def test_pools_are_set_and_listed_by_country(server: _Server, control: ControlClient) -> None:
    server.answers = {"PUT /api/pools/jp": (200, {}), "GET /api/pools": (200, [{"country": "jp", "serving": 1}])}
    control.set_pool("jp", {"desired": 2})
    assert server.seen[-1][3] == {"desired": 2}
    assert control.pools() == {"jp": {"country": "jp", "serving": 1}}


def test_a_refusal_and_silence_are_one_line_each(
    server: _Server, control: ControlClient, memory: Memory, tmp_path: Path
) -> None:
    server.answers = {"GET /api/nodes": (503, {"detail": "the registry is being rebuilt"})}
    with pytest.raises(LabError, match="the registry is being rebuilt"):
        control.nodes()
    server.shutdown()
    server.server_close()
    with pytest.raises(LabError, match="no answer"):
        control.nodes()
    with pytest.raises(LabError, match="password"):
        ControlClient(Place(tmp_path / "none"), memory)


def test_the_seen_address_is_what_whoami_answers(server: _Server, memory: Memory) -> None:
    server.answers = {"GET http://198.19.10.80/": (200, "198.19.10.11\n")}
    assert seen_address(memory, "jp") == "198.19.10.11"
    assert server.seen[-1][2]["Proxy-Authorization"] == "Basic bGFiLWNvdW50cnktanA6cHc="
    server.answers = {"GET http://198.19.10.80/": (503, "no exit")}
    assert seen_address(memory, "jp") == ""
    server.shutdown()
    server.server_close()
    assert seen_address(memory, "jp") == ""
