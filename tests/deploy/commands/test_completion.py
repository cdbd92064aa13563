"""What the shell offers, asked as bash asks."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.commands.standin import StandIn, node


@pytest.fixture
def complete(cli: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(words: str) -> list[str]:
        monkeypatch.setenv("_VPNEXIT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", f"vpnexit {words}")
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ") + 1))
        return list(cli().stdout.split())

    return run


def test_nodes_countries_users_tokens(standin: StandIn, complete: Any) -> None:
    standin.answers["GET /api/nodes"] = (200, [node(), node("jp000001"), node("us00aa11")])
    standin.answers["GET /api/countries"] = (200, ["gb", "jp"])
    standin.answers["GET /api/users"] = (200, [{"name": "alice"}, {"name": "bob"}])
    standin.answers["GET /api/tokens"] = (200, [{"id": "3f9a1c0b77de", "name": "grafana", "scope": "read"}])
    assert complete("nodes stop jp") == ["jp3f9a1c", "jp000001"]
    assert complete("nodes start ") == ["gb", "jp"]
    assert complete("users remove b") == ["bob"]
    assert complete("tokens remove ") == ["3f9a1c0b77de"]
    assert "restart" in complete("nodes ")


def test_options_before_count(standin: StandIn, complete: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPNEXIT_API")
    standin.answers["GET /api/countries"] = (200, ["gb", "jp"])
    assert complete(f"best --api {standin.address} j") == ["jp"]


@pytest.mark.parametrize("answer", [(500, {"detail": "x"}), (200, {"odd": 1}), (200, [{"no": "id"}]), (200, b"<html>")])
def test_silent_where_there_is_nothing_to_offer(standin: StandIn, complete: Any, answer: Any) -> None:
    standin.answers["GET /api/nodes"] = answer
    assert complete("nodes show ") == []


def test_no_api(complete: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VPNEXIT_API", "127.0.0.1:1")
    assert complete("nodes show ") == []
    monkeypatch.setenv("VPNEXIT_STATE_DIR", os.fspath(tmp_path / "none"))
    assert complete("nodes show ") == []
