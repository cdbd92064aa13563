"""The command line in this process, and a stand-in for the API."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploy import cli as command_line
from tests.deploy.commands.standin import StandIn, standing_in


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Done]


@pytest.fixture
def standin() -> Iterator[StandIn]:
    with standing_in() as made:
        yield made


@pytest.fixture
def cli(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli(*words, stdin=…)` runs a command against the stand-in."""
    for name in [name for name in os.environ if name.startswith("VPNEXIT_")]:
        monkeypatch.delenv(name)
    (tmp_path / "admin.password").write_text("the admin's\n")
    monkeypatch.setenv("VPNEXIT_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("VPNEXIT_API", standin.address)

    def run(*words: str, stdin: str | bytes = "") -> Done:
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "argv", ["vpnexit", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command_line.main()
                code: Any = 0
            except SystemExit as end:
                code = end.code or 0
        return Done(int(code), out.getvalue(), err.getvalue())

    return run
