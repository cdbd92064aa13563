"""The endpoint of speed tests, as doctor sees it."""

import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy import ports
from deploy.config import Settings
from deploy.doctor import endpoint, examine
from deploy.doctor.examine import Subject
from deploy.doctor.model import Check, Result, Skipped
from health.config import SpeedTestSettings
from tests.health.registry.certificates import Authority


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = {"/missing": 404, "/moved": 302}.get(self.path, 200)
        self.send_response_only(status)
        if status == 302:
            self.send_header("Location", "/large")
        if self.path == "/page":
            self.send_header("Content-Type", "text/html")
        size = 1_000_000 if self.path in ("/large", "/page") else 100
        self.send_header("Content-Length", str(size))
        self.end_headers()
        try:
            self.wfile.write(bytes(size))
        except ConnectionError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join(5)


def test_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path, "ours")
    files = authority.issue("server", ["127.0.0.1"])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    with HTTPServer(("127.0.0.1", 0), Handler) as made:
        made.socket = context.wrap_socket(made.socket, server_side=True)
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        url = f"https://127.0.0.1:{made.server_port}/large"
        unknown = endpoint.look(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        known = endpoint.look(url)
        made.shutdown()
        thread.join(5)
    assert "certificate verify failed" in unknown.fault
    assert (known.fault, known.status) == ("", 200)


@pytest.mark.parametrize(
    ("path", "result", "said"),
    [
        ("/large", Result.OK, "gives the download"),
        ("/missing", Result.FAILED, "answers 404"),
        ("/moved", Result.FAILED, "answers 302"),
        ("/page", Result.FAILED, "answers with an HTML page"),
        ("/small", Result.FAILED, "sends 100 bytes and no more"),
    ],
)
def test_what_it_answers(server: str, path: str, result: Result, said: str) -> None:
    (finding,) = endpoint.judge(endpoint.look(server + path))
    assert finding.result is result
    assert said in finding.reason
    assert ("speed_test.download_url" in finding.mend) == (result is Result.FAILED)


def test_nobody_there() -> None:
    (finding,) = endpoint.judge(endpoint.look(f"http://127.0.0.1:{ports.free()}/"))
    assert (finding.result, "refused" in finding.reason) == (Result.FAILED, True)


def test_asked_only_where_there_is_one_and_online(tmp_path: Path) -> None:
    def kind(online: bool, speed_test: SpeedTestSettings) -> list[type]:
        settings = Settings(state_dir=tmp_path, speed_test=speed_test)
        return [type(one) for one in examine.checks(Subject(settings, online)) if one.name == endpoint.NAME]

    given = SpeedTestSettings(download_url="http://127.0.0.1:9/", upload_url="http://127.0.0.1:9/")
    assert kind(True, SpeedTestSettings()) == []
    assert kind(False, given) == [Skipped]
    assert kind(True, given) == [Check]
