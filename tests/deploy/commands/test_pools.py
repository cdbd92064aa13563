"""`vpnexit pools`."""

import json
from typing import Any

import pytest

from tests.deploy.commands.standin import REQUEST_ID, StandIn, pool


def test_list_and_show(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/pools"] = (200, [pool(), pool("gb", serving=0, desired=2, reason="no session is free")])
    rows = cli("pools", "list").stdout.splitlines()
    assert rows[0].split() == ["country", "name", "port", "serving", "strategy", "by", "waits", "for"]
    assert "0/2" in rows[2]
    assert rows[2].endswith("no session is free")
    assert len(json.loads(cli("pools", "list", "--json").stdout)) == 2
    standin.answers["GET /api/pools/jp"] = (200, pool())
    assert "version   3" in cli("pools", "show", "jp").stdout
    assert json.loads(cli("pools", "show", "jp", "--json").stdout) == pool()


def test_set(standin: StandIn, cli: Any) -> None:
    standin.answers["PUT /api/pools/jp"] = (200, pool(min=2))
    words = ["--min", "2", "--max", "6", "--strategy", "random", "--fallback", "us, gb", "--version", "3"]
    done = cli("pools", "set", "jp", *words)
    assert (done.returncode, done.stdout) == (0, "jp: 1 of 1 serving\n")
    cli("pools", "set", "jp", "--fallback", "none", "--desired", "0")
    cli("pools", "set", "jp", "--rotate-hours", "0.5", "--target-connections", "500")
    cli("pools", "set", "jp", "--rotate-hours", "none", "--target-connections", "none")
    assert standin.bodies("PUT /api/pools/jp") == [
        {"min": 2, "max": 6, "strategy": "random", "fallback": ["us", "gb"], "version": 3},
        {"fallback": [], "desired": 0},
        {"rotate_hours": 0.5, "target_connections": 500},
        {"rotate_hours": None, "target_connections": None},
    ]
    done = cli("pools", "set", "jp", "--version", "3")
    assert done.returncode == 2
    assert "nothing to change" in done.stderr


def test_remove(standin: StandIn, cli: Any) -> None:
    standin.answers["DELETE /api/pools/jp"] = (200, {"status": "deleted", "name": "jp"})
    assert cli("pools", "remove", "jp").stdout == "the pool of jp is removed\n"
    detail = "pool jp wants 2 nodes: set desired to 0 first, then remove it"
    standin.answers["DELETE /api/pools/jp"] = (409, {"detail": detail, "status": 409, "reason": "in_use"})
    done = cli("pools", "remove", "jp")
    assert (done.returncode, done.stderr) == (1, f"vpnexit: {detail} (409, request {REQUEST_ID})\n")


def test_a_stale_version(standin: StandIn, cli: Any) -> None:
    detail = "changed by somebody else: its version is 4 now"
    standin.answers["PUT /api/pools/jp"] = (409, {"detail": detail, "status": 409, "reason": "stale_version"})
    done = cli("pools", "set", "jp", "--min", "1", "--version", "3")
    assert (done.returncode, done.stderr) == (1, f"vpnexit: {detail} (409, request {REQUEST_ID})\n")


def test_scale_waits(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    waiting = pool(desired=2, reason="a server is chosen")
    standin.answers["POST /api/pools/jp/scale"] = (200, waiting)
    assert cli("pools", "scale", "jp", "2").stdout == "jp: 1 of 2 serving: a server is chosen\n"
    assert standin.bodies("POST /api/pools/jp/scale") == [{"nodes": 2}]
    there = pool(desired=2, serving=2, nodes=["jp3f9a1c", "jp000001"])
    standin.answers["GET /api/pools/jp"] = [(200, waiting), (200, there)]
    done = cli("pools", "scale", "jp", "2", "--wait")
    assert (done.returncode, done.stdout) == (0, "jp: 2 of 2 serving\n")
    assert done.stderr == "jp: 1 of 2 serving: a server is chosen\n"
    standin.answers["GET /api/pools/jp"] = (200, waiting)
    done = cli("pools", "scale", "jp", "2", "--wait", "--timeout", "1", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("vpnexit: after 1 s jp: 1 of 2 serving: a server is chosen\n")


def test_rotate_waits_until_all_are_new(standin: StandIn, cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.commands.waiting.POLL_S", 0.01)
    standin.answers["POST /api/pools/jp/rotate"] = (202, pool())
    assert cli("pools", "rotate", "jp").returncode == 0
    new = pool(nodes=["jp000001"])
    standin.answers["GET /api/pools/jp"] = [(200, pool()), (200, pool(nodes=["jp3f9a1c", "jp000001"])), (200, new)]
    done = cli("pools", "rotate", "jp", "--wait", "--json")
    assert json.loads(done.stdout) == new
    assert done.stderr == "jp: 1 of 1 serving, 1 to go; 1 old left\n"


def test_more_than_a_pool_holds_is_wrong_usage(standin: StandIn, cli: Any) -> None:
    for words in (("scale", "jp", "11"), ("set", "jp", "--desired", "11"), ("set", "jp", "--max", "11")):
        assert cli("pools", *words).returncode == 2, words
    assert standin.asked == []
