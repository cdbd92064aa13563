"""The command in a real terminal (a pty) of 80 and 200 columns, with and without colour, and in a pipe."""

import codecs
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from tests.deploy.commands.standin import StandIn, node

ROOT = Path(__file__).parents[3]
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NODES = [
    node(),
    node("us00aa11", status="error", state="failed", health_status="unhealthy", score=None, reason="the account " * 12),
]


class Terminal:
    """A pty and the command in it."""

    def __init__(self, columns: int, environ: dict[str, str], *words: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *words],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environ},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.text = ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode  # a part may end within a character
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # EIO: the last one that had it open is gone
                return
            self.text += self._decode(part)
            if self.text.endswith(": "):
                os.write(self._master, b"typed secret\n")

    def interrupt_after(self, text: str, within: float = 20.0) -> None:
        deadline = time.monotonic() + within
        while text not in self.text:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.02)
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        try:
            code = self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        os.close(self._master)
        return code


@pytest.fixture
def environ(standin: StandIn, tmp_path: Path) -> dict[str, str]:
    (tmp_path / "admin.password").write_text("x")
    standin.answers["GET /api/nodes"] = (200, NODES)
    return {"VPNEXIT_API": standin.address, "VPNEXIT_STATE_DIR": str(tmp_path)}


@pytest.mark.parametrize(("columns", "server"), [(80, False), (200, True)])
def test_a_table_fits_the_terminal(environ: dict[str, str], columns: int, server: bool) -> None:
    terminal = Terminal(columns, environ, "nodes", "list")
    assert terminal.end() == 0, terminal.text
    assert COLOUR.search(terminal.text)
    lines = COLOUR.sub("", terminal.text).splitlines()
    assert max(map(len, lines)) <= columns
    assert ("server" in lines[0]) == server
    text = " ".join(" ".join(lines).split())
    for word in ("jp3f9a1c", "us00aa11", "198.18.10.11", "healthy 87", "country", "error"):
        assert word in text
    assert text.count("account") == 12


def test_without_colour_and_in_a_pipe(environ: dict[str, str]) -> None:
    terminal = Terminal(80, {**environ, "NO_COLOR": "1"}, "nodes", "list")
    assert terminal.end() == 0
    assert not re.search(r"\x1b\[(3|4|9)[0-9]", terminal.text)
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "nodes", "list"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "\x1b" not in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["id", "jp3f9a1c", "us00aa11"]


def test_progress_on_a_terminal(environ: dict[str, str], standin: StandIn) -> None:
    started = {"status": "starting", "node_id": "jp3f9a1c", "country": "jp", "server": "jp514"}
    standin.answers["POST /api/nodes/jp/start"] = (202, started)
    verifying = node(status="starting", state="verifying", reason="its DNS is looked at")
    standin.answers["GET /api/nodes/jp3f9a1c"] = [(200, verifying), (200, verifying), (200, node())]
    terminal = Terminal(80, environ, "nodes", "start", "jp", "--wait")
    assert terminal.end() == 0, terminal.text
    shown = r"jp3f9a1c is verifying: its DNS is looked at \(up to (60|5\d) s more\)"
    assert re.search(shown, COLOUR.sub("", terminal.text))
    assert terminal.text.rstrip().endswith("jp3f9a1c serves from 198.18.10.11")


def test_events_end_by_ctrl_c(environ: dict[str, str], standin: StandIn) -> None:
    standin.streams = [["event: node\ndata: {}\n\n", "wait"]]
    terminal = Terminal(80, environ, "events")
    terminal.interrupt_after("node")
    assert terminal.end() == 130, terminal.text
    assert "Traceback" not in terminal.text


def test_a_password_is_asked_for_twice_and_not_shown(environ: dict[str, str], standin: StandIn) -> None:
    standin.answers["POST /api/users"] = (201, {"name": "bob"})
    terminal = Terminal(80, environ, "users", "add", "bob")
    assert terminal.end() == 0, terminal.text
    assert re.search(r"password: \s*Repeat for confirmation: ", terminal.text)
    assert "typed secret" not in terminal.text
    assert standin.bodies("POST /api/users") == [{"name": "bob", "password": "typed secret"}]
