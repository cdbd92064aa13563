"""`vpnexit nodes`."""

import json
from typing import Any

import pytest

from deploy.commands import nodes
from deploy.commands.nodes import unseen
from tests.deploy.commands.standin import REQUEST_ID, StandIn, node, pool


def test_list(standin: StandIn, cli: Any) -> None:
    broken = node("us00aa11", status="error", state="failed", health_status="unhealthy", score=None, reason="no [tun]")
    standin.answers["GET /api/nodes"] = (200, [node(), broken])
    done = cli("nodes", "list")
    header, first, second = done.stdout.splitlines()
    assert header.split() == [word for column in nodes._COLUMNS for word in column.title.split()]
    assert first.split()[:7] == ["jp3f9a1c", "jp", "Tokyo", "vpn", "running", "healthy", "87"]
    assert second.rstrip().endswith("no [tun]")
    assert json.loads(cli("nodes", "list", "--json").stdout) == [node(), broken]
    standin.answers["GET /api/nodes?country=US"] = (200, [broken])
    assert json.loads(cli("nodes", "list", "--json", "--country", "US").stdout) == [broken]
    standin.answers["GET /api/nodes?country=us&status=stopped"] = (200, [])
    assert cli("nodes", "list", "--country", "us", "--status", "stopped").stdout == "none\n"
    assert standin.asked[0].headers["Authorization"].startswith("Basic ")


def test_a_filter_that_means_nothing_is_refused(standin: StandIn, cli: Any) -> None:
    detail = "status: Input should be 'running', 'stopped', 'error', 'starting' or 'stopping'"
    standin.answers["GET /api/nodes?status=serving"] = (400, {"detail": detail, "status": 400, "reason": "bad_request"})
    done = cli("nodes", "list", "--status", "serving")
    assert (done.returncode, done.stdout) == (1, "")
    assert detail in done.stderr


def test_show(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/nodes/jp3f9a1c"] = (200, node())
    done = cli("nodes", "show", "jp3f9a1c")
    shown = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert shown["score"].strip() == "87.25"
    assert "metrics: probe ms       12.5\n" in done.stdout
    assert json.loads(cli("nodes", "show", "jp3f9a1c", "--json").stdout) == node()


def test_score_shows_every_term(standin: StandIn, cli: Any) -> None:
    answer = {"node_id": "jp3f9a1c", "score": 87.2, "terms": {"up": 1.0, "latency": 0.872}, "health_status": "healthy"}
    standin.answers["GET /api/nodes/jp3f9a1c/score"] = (200, answer)
    assert "terms: latency  0.872" in cli("nodes", "score", "jp3f9a1c").stdout
    assert json.loads(cli("nodes", "score", "jp3f9a1c", "--json").stdout) == answer


STARTED = {"status": "starting", "node_id": "jp3f9a1c", "country": "jp", "server": "jp514"}


def test_start(standin: StandIn, cli: Any) -> None:
    standin.answers["POST /api/nodes/jp/start"] = (202, STARTED)
    done = cli("nodes", "start", "jp", "--city", "Tokyo", "--protocol", "wireguard")
    assert (done.returncode, done.stdout) == (0, "jp3f9a1c is starting\n")
    assert standin.bodies("POST /api/nodes/jp/start") == [{"city": "Tokyo", "protocol": "wireguard"}]
    assert json.loads(cli("nodes", "start", "jp", "--json").stdout) == STARTED


def test_start_waits_until_it_serves(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["POST /api/nodes/jp/start"] = (202, STARTED)
    verifying = node(status="starting", state="verifying", exit_ip=None)
    standin.answers["GET /api/nodes/jp3f9a1c"] = [(200, verifying), (200, verifying), (200, node())]
    done = cli("nodes", "start", "jp", "--wait")
    assert (done.returncode, done.stdout) == (0, "jp3f9a1c serves from 198.18.10.11\n")
    assert done.stderr == "jp3f9a1c is verifying\n"
    assert json.loads(cli("nodes", "start", "jp", "--wait", "--json").stdout) == node()


def test_start_says_why_it_failed(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["POST /api/nodes/jp/start"] = (202, STARTED)
    gone = node(status="error", state="failed", reason="the VPN server refuses the login")
    standin.answers["GET /api/nodes/jp3f9a1c"] = (200, gone)
    done = cli("nodes", "start", "jp", "--wait", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == gone
    assert done.stderr == "vpnexit: jp3f9a1c is failed: the VPN server refuses the login\n"
    standin.answers["GET /api/nodes/jp3f9a1c"] = (200, node(status="starting", state="starting", reason="no image"))
    done = cli("nodes", "start", "jp", "--wait", "--timeout", "1")
    assert done.returncode == 1
    assert done.stderr.endswith("vpnexit: after 1 s jp3f9a1c is starting: no image\n")


def test_stop_and_restart(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["DELETE /api/nodes/jp3f9a1c/stop"] = (202, {"status": "stopping", "node_id": "jp3f9a1c"})
    assert cli("nodes", "stop", "jp3f9a1c").stdout == "jp3f9a1c is stopping\n"
    standin.answers["POST /api/nodes/jp3f9a1c/restart"] = (202, STARTED | {"node_id": "jp111111"})
    assert cli("nodes", "restart", "jp3f9a1c").stdout == "jp111111 is starting\n"
    standin.answers["GET /api/nodes/jp3f9a1c"] = (200, node())
    standin.answers["GET /api/pools/jp"] = (200, pool())
    standin.answers["GET /api/nodes/jp111111"] = (200, node("jp111111"))
    assert cli("nodes", "restart", "jp3f9a1c", "--wait").stdout == "jp111111 serves from 198.18.10.11\n"


def test_restart_of_a_node_that_goes_before_its_successor_comes(
    standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["POST /api/nodes/jp3f9a1c/restart"] = (202, STARTED | {"status": "stopping"})
    standin.answers["GET /api/nodes/jp3f9a1c"] = (200, node())
    standin.answers["GET /api/nodes/jp111111"] = (200, node("jp111111"))
    here, between, there = pool(), pool(nodes=[], serving=0), pool(nodes=["jp111111"])
    standin.answers["GET /api/pools/jp"] = [(200, here), (200, here), (200, between), (200, there)]
    done = cli("nodes", "restart", "jp3f9a1c", "--wait", "--json")
    assert json.loads(done.stdout) == node("jp111111")
    assert done.stderr.splitlines() == ["jp: 1 of 1 serving; 1 old left", "jp: 0 of 1 serving"]
    gone = pool(nodes=[], desired=0, serving=0)
    standin.answers["GET /api/pools/jp"] = [(200, here), (200, gone)]
    done = cli("nodes", "restart", "jp3f9a1c", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "vpnexit: jp3f9a1c is gone, and nothing took its place: jp: 0 of 0 serving\n"


def test_refusals_are_told_with_the_request(standin: StandIn, cli: Any) -> None:
    body = {"detail": "no session is free: 10 of 10 in use", "status": 409, "reason": "no_slot"}
    standin.answers["POST /api/nodes/jp/start"] = (409, body)
    done = cli("nodes", "start", "jp", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"vpnexit: no session is free: 10 of 10 in use (409, request {REQUEST_ID})\n"


def test_logs(standin: StandIn, cli: Any) -> None:
    logs = {"node_id": "jp3f9a1c", "lines": 2, "logs": "one\x1b[2J\ntwo\tthree\n"}
    standin.answers["GET /api/nodes/jp3f9a1c/logs?lines=5"] = (200, logs)
    assert cli("nodes", "logs", "jp3f9a1c", "-n", "5").stdout == "one\\x1b[2J\ntwo\tthree\n"
    assert json.loads(cli("nodes", "logs", "jp3f9a1c", "-n", "5", "--json").stdout) == logs


def test_logs_are_followed(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "FOLLOW_EVERY_S", 0.0)

    def log(text: str) -> tuple[int, Any]:
        return 200, {"node_id": "jp3f9a1c", "lines": 1, "logs": text}

    standin.answers["GET /api/nodes/jp3f9a1c/logs?lines=2"] = log("b\nc\n")
    more = [log("a\nb\nc\n"), log("a\nb\nc\nd\n"), log("c\nd\ne\nf\n"), (404, {"detail": "there is no node"})]
    standin.answers["GET /api/nodes/jp3f9a1c/logs?lines=1000"] = [*more]
    done = cli("nodes", "logs", "jp3f9a1c", "-n", "2", "--follow")
    assert done.stdout.split() == ["b", "c", "d", "e", "f"]
    assert done.returncode == 1  # the node is gone
    standin.answers["GET /api/nodes/jp3f9a1c/logs?lines=1000"] = [*more]
    done = cli("nodes", "logs", "jp3f9a1c", "-n", "2", "--follow", "--json")
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == ["b", "c", "d", "e", "f"]


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "ab", "ab"),
        ("ab", "ab", ""),
        ("ab", "abc", "c"),
        ("bc", "abcd", "d"),
        ("abc", "cde", "de"),
        ("abc", "xyz", "xyz"),
        ("aaa", "aaaa", ""),  # the same line again: cannot be told from an older one that is shown now
        ("ab", "", ""),
    ],
)
def test_unseen_lines(before: str, now: str, new: str) -> None:
    assert list(unseen(list(before), list(now))) == list(new)


def speed(status: str = "done", **changes: Any) -> dict[str, Any]:
    """A speed test as the API shows it."""
    done = {
        "download_mbps": 91.24,
        "upload_mbps": 45.0,
        "latency_ms": 12.34,
        "tested_at": "2026-11-25T22:00:01.500+00:00",
    }
    figures = done if status == "done" else dict.fromkeys(done)
    told = {"id": "00f1", "node_id": "jp3f9a1c", "country": "jp", "status": status, "reason": "ok", "error": ""}
    return told | figures | changes


FAILED = speed("failed", tested_at="2026-11-25T22:00:01.500+00:00", reason="refused", error="nobody [is] there")


def test_speed_test_is_begun(standin: StandIn, cli: Any) -> None:
    standin.answers["POST /api/speed-test/jp3f9a1c?wait=0"] = (202, speed("waiting"))
    done = cli("nodes", "speed-test", "jp3f9a1c")
    assert (done.returncode, done.stdout) == (0, "the speed test of jp3f9a1c is waiting\n")
    assert json.loads(cli("nodes", "speed-test", "jp3f9a1c", "--json").stdout) == speed("waiting")


def test_speed_test_is_waited_for(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["POST /api/speed-test/jp3f9a1c?wait=0"] = (202, speed("waiting"))
    results = "GET /api/speed-test/results/jp3f9a1c?limit=10"
    older = speed(id="00f0", download_mbps=1.0)
    standin.answers[results] = [(200, [older]), (200, [older]), (200, [speed(), older])]
    done = cli("nodes", "speed-test", "jp3f9a1c", "--wait")
    assert (done.returncode, done.stdout) == (0, "jp3f9a1c: 91.2 Mbit/s down, 45.0 Mbit/s up, 12.3 ms\n")
    assert json.loads(cli("nodes", "speed-test", "jp3f9a1c", "--wait", "--json").stdout) == speed()
    standin.answers[results] = (200, [FAILED])
    done = cli("nodes", "speed-test", "jp3f9a1c", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert "jp3f9a1c: the speed test failed: nobody [is] there" in done.stderr
    done = cli("nodes", "speed-test", "jp3f9a1c", "--wait", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (1, FAILED)
    standin.answers[results] = (200, [])
    done = cli("nodes", "speed-test", "jp3f9a1c", "--wait", "--timeout", "1")
    assert "after 1 s the speed test of jp3f9a1c is waiting" in done.stderr


def test_speed_test_that_is_refused(standin: StandIn, cli: Any) -> None:
    detail = "no endpoint to measure against is configured"
    standin.answers["POST /api/speed-test/jp3f9a1c?wait=0"] = (409, {"detail": detail, "status": 409, "reason": "x"})
    done = cli("nodes", "speed-test", "jp3f9a1c", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert detail in done.stderr


def test_speeds(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/speed-test/results?limit=20"] = (200, [speed(), FAILED])
    header, first, second = cli("nodes", "speeds").stdout.splitlines()
    assert header.split() == [word for column in nodes._SPEED_COLUMNS for word in column.title.split()]
    assert first.split() == ["2026-11-25", "22:00:01", "jp3f9a1c", "91.2", "45.0", "12.3"]
    assert second.endswith("nobody [is] there")
    standin.answers["GET /api/speed-test/results/jp3f9a1c?limit=5"] = (200, [])
    assert cli("nodes", "speeds", "jp3f9a1c", "--limit", "5").stdout == "none\n"
    assert json.loads(cli("nodes", "speeds", "--json").stdout) == [speed(), FAILED]
