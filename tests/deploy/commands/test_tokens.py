"""`vpnexit tokens`: a secret is shown once, or goes into a private file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploy.commands import tokens
from tests.deploy.commands.standin import StandIn

TOKEN = {"id": "3f9a1c0b77de", "name": "grafana", "scope": "read", "created_at": "2026-11-25T12:00:00.000+00:00"}
MADE = TOKEN | {"token": "vx_3f9a1c0b77de_secret"}


def test_add_shows_the_secret_alone_on_standard_output(standin: StandIn, cli: Any) -> None:
    standin.answers["POST /api/tokens"] = (201, MADE)
    done = cli("tokens", "add", "grafana", "--scope", "operate")
    assert (done.returncode, done.stdout) == (0, "vx_3f9a1c0b77de_secret\n")
    assert done.stderr == "3f9a1c0b77de: the secret of grafana, shown this once:\n"
    assert standin.bodies("POST /api/tokens") == [{"name": "grafana", "scope": "operate"}]
    assert json.loads(cli("tokens", "add", "grafana", "--json").stdout) == MADE
    assert cli("tokens", "add", "grafana", "--scope", "all").returncode == 2


def test_add_for_a_while(standin: StandIn, cli: Any) -> None:
    standin.answers["POST /api/tokens"] = (201, MADE)
    for text in ("90d", "12h", "none"):
        assert cli("tokens", "add", "ci", "--expires", text).returncode == 0
    assert [body.get("ttl") for body in standin.bodies("POST /api/tokens")] == [90 * 86400, 12 * 3600, None]
    done = cli("tokens", "add", "ci", "--expires", "soon")
    assert done.returncode == 2
    assert "'soon' is no time: write 30m, 12h or 90d" in done.stderr


def test_add_into_a_file(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    standin.answers["POST /api/tokens"] = (201, MADE)
    file = tmp_path / "grafana.token"
    done = cli("tokens", "add", "grafana", "--secret-file", str(file))
    assert (done.returncode, done.stdout) == (0, f"3f9a1c0b77de: the secret of grafana is in {file}\n")
    assert file.read_text() == "vx_3f9a1c0b77de_secret\n"
    assert file.stat().st_mode & 0o777 == 0o600
    done = cli("tokens", "add", "grafana", "--secret-file", str(file), "--json")
    assert (done.returncode, done.stderr) == (1, f"vpnexit: cannot write {file}: File exists\n")
    assert len(standin.asked) == 1  # and no token was made for it


def test_a_secret_that_could_not_be_written(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.answers["POST /api/tokens"] = (201, MADE)
    monkeypatch.setattr(tokens, "_create", lambda path: os.open("/dev/full", os.O_WRONLY))
    done = cli("tokens", "add", "grafana", "--secret-file", "x")
    assert done.returncode == 1
    assert done.stderr == (
        "vpnexit: cannot write x: No space left on device; its secret is lost: `vpnexit tokens remove 3f9a1c0b77de`\n"
    )


def test_a_refusal_leaves_no_file(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    standin.answers["POST /api/tokens"] = (403, {"detail": "this needs scope admin", "status": 403, "reason": "scope"})
    assert cli("tokens", "add", "grafana", "--secret-file", str(tmp_path / "t")).returncode == 1
    assert not (tmp_path / "t").exists()


def test_list_and_remove(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/tokens"] = (200, [TOKEN])
    row = cli("tokens", "list").stdout.splitlines()[1]
    assert row.split() == ["3f9a1c0b77de", "grafana", "read", "2026-11-25", "12:00", "never"]
    ends = {"expires_at": "2026-12-25T12:00:00.000+00:00", "expired": True}
    standin.answers["GET /api/tokens"] = (200, [TOKEN, TOKEN | ends])
    assert cli("tokens", "list").stdout.splitlines()[2].endswith("  expired 2026-12-25 12:00")
    standin.answers["GET /api/tokens"] = (200, [TOKEN])
    assert json.loads(cli("tokens", "list", "--json").stdout) == [TOKEN]
    standin.answers["DELETE /api/tokens/3f9a1c0b77de"] = (200, {"status": "deleted", "name": "grafana"})
    assert cli("tokens", "remove", "3f9a1c0b77de").stdout == "3f9a1c0b77de is removed\n"
