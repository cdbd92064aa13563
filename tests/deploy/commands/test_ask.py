"""How the API is reached and who asks, for every command alike; and the help of every command."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from deploy.cli import app
from tests.deploy.commands.standin import REQUEST_ID, StandIn


def commands(group: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        yield (*words, command.name or (command.callback.__name__ if command.callback else ""))
    for sub in group.registered_groups:
        assert sub.typer_instance is not None
        if sub.name != "lab":
            yield from commands(sub.typer_instance, (*words, str(sub.name)))


PROCESSES = {("up",), ("gateway",), ("control",), ("collector",), ("scorer",), ("image",)}
ASKING = [words for words in commands(app) if words not in PROCESSES]


def test_all_topics_are_there() -> None:
    assert {words[0] for words in ASKING} >= {
        "nodes",
        "pools",
        "users",
        "tokens",
        "countries",
        "events",
        "best",
        "stats",
    }
    assert len(ASKING) > 24


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_help_has_an_example_and_the_common_options(words: tuple[str, ...], cli: Any) -> None:
    done = cli(*words, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: vpnexit {' '.join(words)}" in " ".join(done.stdout.split())
    assert "--json" in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_the_admins_password(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    standin.answers["GET /api/stats"] = (200, {})
    assert cli("stats").returncode == 0
    login = base64.b64decode(standin.asked[0].headers["Authorization"].removeprefix("Basic ")).decode()
    assert login == "admin:the admin's"
    (tmp_path / "admin.password").unlink()
    done = cli("stats")
    assert done.returncode == 1
    assert f"cannot read the API's password {tmp_path}/admin.password" in done.stderr
    assert "--state-dir" in done.stderr


def test_the_state_directory_is_an_option(
    standin: StandIn, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.answers["GET /api/stats"] = (200, {})
    monkeypatch.setenv("VPNEXIT_STATE_DIR", "/nonexistent")
    assert cli("stats", "--state-dir", str(tmp_path)).returncode == 0


def test_a_log_in_that_is_refused_is_named(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    refused = {"detail": "user name, password or token is wrong", "status": 401, "reason": "unauthorized"}
    standin.answers["GET /api/stats"] = (401, refused)
    asked = f"vpnexit: {refused['detail']} (401, request {REQUEST_ID}; asked http://{standin.address} "
    assert cli("stats").stderr == f"{asked}as admin with the password in {tmp_path}/admin.password)\n"
    (tmp_path / "token").write_text("vx_secret\n")
    done = cli("stats", "--token-file", str(tmp_path / "token"))
    assert done.stderr == f"{asked}with the token in {tmp_path}/token)\n"


def test_an_address_nobody_gave_is_explained(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPNEXIT_API")
    monkeypatch.setenv("VPNEXIT_CONTROL__LISTEN", "127.0.0.1:1")
    done = cli("stats")
    assert done.returncode == 3
    assert done.stderr == (
        "vpnexit: no answer from http://127.0.0.1:1: Connection refused; is it running? "
        "(it is control.listen of the configuration; --api names another address)\n"
    )


def test_a_token_goes_before_and_needs_no_state(
    standin: StandIn, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.answers["GET /api/stats"] = (200, {})
    (tmp_path / "token").write_text("vx_secret\n")
    monkeypatch.setenv("VPNEXIT_STATE_DIR", "/nonexistent")
    assert cli("stats", "--token-file", str(tmp_path / "token")).returncode == 0
    monkeypatch.setenv("VPNEXIT_TOKEN_FILE", str(tmp_path / "token"))
    assert cli("stats").returncode == 0
    assert [asked.headers["Authorization"] for asked in standin.asked] == ["Bearer vx_secret"] * 2


def test_addresses(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.answers["GET /api/stats"] = (200, {})
    monkeypatch.delenv("VPNEXIT_API")
    monkeypatch.setenv("VPNEXIT_CONTROL__LISTEN", standin.address)
    assert cli("stats").returncode == 0
    assert cli("stats", "--api", f"http://{standin.address}/").returncode == 0
    done = cli("stats", "--api", "ftp://nowhere")
    assert done.returncode == 2
    assert "write an address such as 127.0.0.1:8080" in " ".join(done.stderr.replace("│", " ").split())
    done = cli("stats", "--api", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "vpnexit: no answer from http://127.0.0.1:1: Connection refused; is it running?\n"


def test_an_answer_of_something_else(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/stats"] = (200, b"<html>")
    assert cli("stats").returncode == 3
    for answer in ([], {"detail": 1}, [1], [{"id": "jp3f9a1c"}], "x", None):
        standin.answers["GET /api/nodes"] = (200, answer)
        done = cli("nodes", "list")
        assert done.returncode == 0 if answer == [] else done.returncode == 1
        assert answer == [] or "the API's answer is not understood" in done.stderr
    standin.answers["GET /api/stats"] = (502, b"<html>")
    done = cli("stats")
    assert done.returncode == 1
    assert done.stderr.startswith("vpnexit: Bad Gateway (502")
