import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from deploy.lab import engine, packages
from deploy.lab.shell import LabError


class _Ping(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/_ping" else 404)
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Something that answers as a Docker Engine's socket does."""
    path = tmp_path / "docker.sock"
    with socketserver.UnixStreamServer(str(path), _Ping) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield path
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keeps these tests away from the machine's own engines."""
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "RUN_DIR", tmp_path / "run")
    monkeypatch.setattr(engine, "OWN_SOCKET", tmp_path / "run" / "docker.sock")
    monkeypatch.setattr(engine, "DEFAULT_SOCKET", tmp_path / "default.sock")


def test_an_engine_answers_or_it_does_not(daemon: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.answers(daemon)
    monkeypatch.setattr(_Ping, "status", 500)
    assert not engine.answers(daemon)
    assert not engine.answers(tmp_path / "none.sock")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left.sock"))
    assert not engine.answers(tmp_path / "left.sock")


def test_the_labs_own_engine_comes_first_then_docker_host_then_the_machines(
    daemon: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine.find() is None
    monkeypatch.setattr(engine, "DEFAULT_SOCKET", daemon)
    assert engine.find() == engine.Engine(f"unix://{daemon}", own=False)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{daemon}")
    monkeypatch.setattr(engine, "DEFAULT_SOCKET", Path("/nonexistent"))
    assert engine.find() == engine.Engine(f"unix://{daemon}", own=False)
    monkeypatch.setattr(engine, "OWN_SOCKET", daemon)
    assert engine.find() == engine.Engine(f"unix://{daemon}", own=True)


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "ssh://host"])
def test_an_engine_on_another_machine_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(LabError, match="on this machine"):
        engine.find()


def test_a_docker_host_that_does_not_answer_is_not_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    with pytest.raises(LabError, match="does not answer: start that engine, or unset DOCKER_HOST"):
        engine.find()


def test_without_an_engine_and_without_debian_it_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packages, "is_debian", lambda: False)
    with pytest.raises(LabError, match="no Docker Engine answers"):
        engine.ensure(tmp_path)


def test_a_running_lab_keeps_its_engine(daemon: Path, tmp_path: Path) -> None:
    assert engine.again(f"unix://{daemon}", False, tmp_path).host == f"unix://{daemon}"
    with pytest.raises(LabError, match="that the lab runs on does not answer"):
        engine.again("unix:///nonexistent.sock", False, tmp_path)


def test_another_processs_number_is_not_taken_for_our_dockerd(tmp_path: Path) -> None:
    engine.RUN_DIR.mkdir()
    (engine.RUN_DIR / "docker.pid").write_text(str(os.getpid()))
    engine.stop(tmp_path)
    (engine.RUN_DIR / "docker.pid").write_text("garbage")
    engine.stop(tmp_path)


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    assert engine.restart_for_removal(tmp_path) is None
    engine.remove(tmp_path)
