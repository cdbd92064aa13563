"""Completion as an operator meets it: installed by `--install-completion`, then Tab in a real interactive shell."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.commands.standin import StandIn, node

INTERACTIVE = {"bash": ["bash", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}
_CONTROLS = re.compile(
    r"\x1b\[[0-9;?<>=]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b[=>]|\x1b\][^\x07]*\x07|[\x00-\x08\x0e-\x1f]"
)


class Shell:
    """A shell in a terminal of its own."""

    def __init__(self, words: list[str], environ: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
        self._raw = b""
        # Job control wants a terminal that is the session's own.
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *words], env=environ, cwd=environ["HOME"], stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # EIO: the shell is gone
                return
            self._raw += part
            if b"\x1b[6n" in part or b"\x1b[c" in part or b"\x1b[0c" in part:  # it asks what terminal this is
                os.write(self._master, b"\x1b[1;1R\x1b[?62c")

    @property
    def text(self) -> str:
        return _CONTROLS.sub("", self._raw.decode(errors="replace"))

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, pattern: str, within: float = 30.0) -> None:
        deadline = time.monotonic() + within
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            assert self._process.poll() is None, self.text
            time.sleep(0.05)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(5)
        os.close(self._master)


@contextmanager
def running(words: list[str], environ: dict[str, str]) -> Iterator[Shell]:
    shell = Shell(words, environ)
    try:
        yield shell
    finally:
        shell.end()


@pytest.fixture
def environ(standin: StandIn, tmp_path: Path) -> dict[str, str]:
    """A home directory with nothing in it but `vpnexit` on the path."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "admin.password").write_text("x")
    standin.answers["GET /api/nodes"] = (200, [node(), node("us00aa11")])
    bin_dir = str(Path(sys.executable).parent)
    return {
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "xterm",
        "LANG": "C.UTF-8",
        "VPNEXIT_API": standin.address,
        "VPNEXIT_STATE_DIR": str(tmp_path / "state"),
    }


@pytest.mark.parametrize("name", INTERACTIVE)
def test_tab_completes_commands_and_what_the_api_knows(name: str, environ: dict[str, str], tmp_path: Path) -> None:
    words = INTERACTIVE[name]
    subprocess.run(
        [name, "-c", "vpnexit --install-completion; true"], env=environ, check=True, timeout=60, capture_output=True
    )
    with running(words, environ) as shell:
        shell.type("echo rea''dy\r")
        shell.wait_for(r"ready")
        shell.type("vpnexit nodes sco\t")
        shell.wait_for(r"nodes score")
        shell.type("us\t")
        shell.wait_for(r"us00aa11")
