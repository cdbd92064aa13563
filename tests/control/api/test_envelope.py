"""What every request goes through."""

import re
from typing import Any

import pytest
import structlog

from control.api.ready import HEADERS
from tests.control.api.conftest import Client, NewApi


@pytest.mark.parametrize("offered", ["a", "9f-._:Z", "x" * 64])
async def test_a_request_id_is_taken_over(api: Any, offered: str) -> None:
    for path in ("/api/nodes", "/api/nodes/jp00ff00", "/api/nothing", "/api/health"):
        answer = await api.get(path, headers={"X-Request-Id": offered})
        assert answer.headers["X-Request-Id"] == offered


@pytest.mark.parametrize("offered", ["", "a b", "x" * 65, "a/b", "<b>", "\u00e4"])
async def test_one_that_is_none_is_replaced(api: Any, offered: str) -> None:
    given = [(await api.get("/api/nodes", headers={"X-Request-Id": offered})).headers["X-Request-Id"] for _ in "ab"]
    assert offered not in given
    assert given[0] != given[1]
    assert all(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", one) for one in given)


async def test_every_answer_is_dressed(api: Any, fleet: Any, new_api: NewApi) -> None:
    stranger = await new_api(fleet, {})
    answers = [await api.get(path) for path in ("/api/nodes", "/api/nodes?limit=1", "/api/pools/jp", "/docs")]
    answers += [await api.get(path) for path in ("/api/nothing", "/api/pools/xx", "/proxy.pac", "/metrics")]
    answers += [await stranger.get("/api/nodes"), await stranger.get("/api/health"), await api.post("/api/nodes")]
    for answer in answers:
        fields = answer.headers
        assert fields["Server"] == "vpnexit"
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert fields["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in fields["Content-Security-Policy"]
        assert fields["Cache-Control"] in ("no-store", "no-cache")
        assert fields["X-Request-Id"]
        assert all(len(fields.getall(name)) == 1 for name in HEADERS)
    assert "Date" in answers[0].headers


async def test_head_is_get_without_a_body(api: Any) -> None:
    for path in ("/api/nodes", "/api/pools/jp", "/api/health"):
        got, asked = await api.get(path), await api.head(path)
        assert (asked.status, await asked.read()) == (200, b"")
        assert asked.headers["Content-Length"] == got.headers["Content-Length"]


async def test_an_unforeseen_error_is_told_without_its_details(
    api: Any, ask: Client, fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("secret-password at /srv/place")

    monkeypatch.setattr(fleet.fleet, "snapshot", broken)
    with structlog.testing.capture_logs() as logs:
        refused = await ask("GET", "/api/pools", 500, headers={"X-Request-Id": "abc"})
    assert refused == {"status": 500, "reason": "internal", "detail": "internal error, see the log for request abc"}
    assert (logs[0]["event"], logs[0]["request_id"]) == ("api_error", "abc")


async def test_changes_are_recorded_with_who_what_and_outcome(ask: Client, fleet: Any, new_api: NewApi) -> None:
    token = await ask("POST", "/api/tokens", 201, json={"name": "ci", "scope": "read"})
    reader = await new_api(fleet, {"Authorization": f"Bearer {token['token']}"})
    with structlog.testing.capture_logs() as logs:
        await ask("POST", "/api/users", 201, json={"name": "alice", "password": "sesame-street"})
        await ask("POST", "/api/users", 409, json={"name": "alice", "password": "sesame-street"})
        await ask("PUT", "/api/pools/xx", 400, json={})
        await ask("POST", "/api/nodes/jp/start", 202)
        await reader.put("/api/pools/jp", json={"max": 1})
        await ask("GET", "/api/nodes")
    changes = [line for line in logs if line["event"] == "audit"]
    assert [(line["who"], line["what"], line["subject"], line["outcome"]) for line in changes] == [
        ("admin", "user.add", "alice", "done"),
        ("admin", "user.add", "", "exists"),
        ("admin", "pool.change", "xx", "unknown_country"),
        ("admin", "node.start", "jp", "done"),
        (f"token:{token['id']}", "pool.change", "jp", "forbidden"),
    ]
    assert all(line["request_id"] for line in changes)
    assert "sesame-street" not in str(logs)
    assert token["token"] not in str(logs)


async def test_a_subject_cannot_break_a_log_line(ask: Client) -> None:
    with structlog.testing.capture_logs() as logs:
        await ask("PUT", "/api/pools/" + "%0Ax%1b" * 50, 400, json={})
    (line,) = [line for line in logs if line["event"] == "audit"]
    assert len(line["subject"]) == 64
    assert line["subject"].isprintable()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://[", "https://127.0.0.1"])
async def test_another_sites_page_changes_nothing(api: Any, ask: Client, origin: str) -> None:
    refused = await ask("POST", "/api/nodes/jp/start", 403, headers={"Origin": origin})
    assert refused["reason"] == "cross_origin"
    assert (await ask("GET", "/api/pools/jp"))["desired"] == 0
    assert (await api.get("/api/nodes", headers={"Origin": origin})).status == 200
    own = str(api.make_url("/")).rstrip("/")
    await ask("PUT", "/api/pools/jp", json={}, headers={"Origin": own})


async def test_a_body_that_is_not_encoded_as_said_is_refused(api: Any) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await api.put("/api/pools/jp", data=b'{"max": 5}', headers=headers)
    assert answer.status == 400
    assert (await answer.json())["detail"] == "the body was cut off, or is not encoded as its header says"
