"""The commands as an operator runs them, against the API of a running `up`."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


def one_line(done: Any) -> str:
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in lines[0]
    return str(lines[0])


def test_nodes_list_and_show(running: Any) -> None:
    done = running.vpnexit("nodes", "list")
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header.split()[:5] == ["id", "country", "city", "kind", "status"]
    assert row.split()[1:4] == ["zz", "direct", "running"]
    listed = json.loads(running.vpnexit("nodes", "list", "--json").stdout)
    assert listed[0]["id"] == row.split()[0]
    shown = json.loads(running.vpnexit("nodes", "show", listed[0]["id"], "--json").stdout)
    assert shown["kind"] == "direct"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nodes", "show", "jp000000"], "vpnexit: there is no node jp000000 (404, request "),
        (["nodes", "logs", "jp000000"], "vpnexit: there is no node jp000000 (404, request "),
        (["nodes", "stop", "nonsense"], "vpnexit: that is not a node id: "),
        (["nodes", "start", "atlantis"], "vpnexit: "),
        (["users", "remove", "nobody"], "vpnexit: there is no such user (404, request "),
    ],
)
def test_refusals_are_one_line_and_exit_code_1(running: Any, words: list[str], expected: str) -> None:
    done = running.vpnexit(*words)
    assert done.returncode == 1
    assert one_line(done).startswith(expected)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words", [["nodes", "show", "../users"], ["pools", "scale", "jp", "many"], ["nodes", "list", "--no"]]
)
def test_wrong_usage_is_exit_code_2(running: Any, words: list[str]) -> None:
    done = running.vpnexit(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_pools(running: Any) -> None:
    assert running.vpnexit("pools", "list").returncode == 0
    assert isinstance(json.loads(running.vpnexit("pools", "list", "--json").stdout), list)
    assert json.loads(running.vpnexit("pools", "show", "uk", "--json").stdout)["country"] == "gb"


def test_users(running: Any, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file\n")
    added = running.vpnexit(
        "users", "add", "bob", "--password-file", str(tmp_path / "password"), "--countries", "jp,uk"
    )
    assert (added.returncode, added.stdout) == (0, "bob may use the proxy\n"), added.stderr
    limits = ("--connections", "20", "--rate", "10MB", "--monthly", "1.5 GB")
    added = running.vpnexit("users", "add", "carol", "--password-file", "-", "--json", *limits, stdin="from stdin\n")
    carol = json.loads(added.stdout)
    assert carol["name"] == "carol"
    assert (carol["max_connections"], carol["bytes_per_second"], carol["monthly_bytes"]) == (20, 10**7, 15 * 10**8)
    assert json.loads(running.vpnexit("users", "show", "carol", "--json").stdout) == carol
    listed = {user["name"]: user for user in json.loads(running.vpnexit("users", "list", "--json").stdout)}
    assert listed["bob"]["allowed_countries"] == ["jp", "gb"]
    table = running.vpnexit("users", "list").stdout
    assert all(word in table for word in ("carol", " 20 ", "10.0 MB/s", "1.50 GB"))
    wrong = running.vpnexit("users", "add", "erin", "--monthly", "much", "--password-file", "-", stdin="x\n")
    assert wrong.returncode == 2
    assert "write 500kB" in " ".join(wrong.stderr.split())
    assert running.vpnexit("users", "add", "bob", "--password-file", "-", stdin="again\n").returncode == 1
    for name in ("bob", "carol"):
        assert running.vpnexit("users", "remove", name).stdout == f"{name} is removed\n"
    assert running.vpnexit("users", "list").stdout == "none\n"


def test_password_is_not_asked_without_a_terminal(running: Any) -> None:
    done = running.vpnexit("users", "add", "dave")
    assert done.returncode == 1
    assert one_line(done).startswith("vpnexit: no terminal to ask for the password: use --password-file")
    done = running.vpnexit("users", "add", "dave", "--password-file", "/nonexistent")
    assert one_line(done) == "vpnexit: cannot read /nonexistent: No such file or directory"


def test_tokens_and_their_scopes(running: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    made = json.loads(running.vpnexit("tokens", "add", "monitor", "--json", "--secret-file", str(file)).stdout)
    assert made["scope"] == "read"
    nowhere = {"VPNEXIT_STATE_DIR": "/nonexistent", "VPNEXIT_TOKEN_FILE": str(file)}
    done = running.vpnexit("stats", "--json", **nowhere)
    assert json.loads(done.stdout)["active_nodes"] == 1
    done = running.vpnexit("pools", "set", "jp", "--min", "1", **nowhere)
    assert done.returncode == 1
    assert re.fullmatch(r"vpnexit: .*scope operate.* \(403, request \S+\)", one_line(done))
    assert running.vpnexit("tokens", "remove", made["id"]).stdout == f"{made['id']} is removed\n"
    assert running.vpnexit("stats", **nowhere).returncode == 1


def test_pools_are_changed_only_as_they_were_seen(running: Any) -> None:
    words = ["--max", "7", "--strategy", "random", "--rotate-hours", "6", "--fallback", "us,gb"]
    changed = json.loads(running.vpnexit("pools", "set", "jp", *words, "--json").stdout)
    assert (changed["max"], changed["strategy"], changed["rotate_hours"]) == (7, "random", 6)
    done = running.vpnexit("pools", "set", "jp", "--max", "8", "--version", str(changed["version"] + 5))
    assert done.returncode == 1
    assert "(409" in one_line(done)
    again = running.vpnexit(
        "pools", "set", "jp", "--rotate-hours", "none", "--version", str(changed["version"]), "--json"
    )
    assert json.loads(again.stdout)["rotate_hours"] is None


def test_overviews(running: Any) -> None:
    assert json.loads(running.vpnexit("best", "zz", "--json").stdout)["country"] == "zz"
    assert running.vpnexit("best", "fr").returncode == 1
    assert "zz" in json.loads(running.vpnexit("countries", "--json").stdout)
    node = json.loads(running.vpnexit("nodes", "list", "--json").stdout)[0]["id"]
    assert json.loads(running.vpnexit("nodes", "score", node, "--json").stdout)["node_id"] == node


def test_events_tell_what_changes(running: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(running.vpnexit, "events", "--json", "--count", "1")
        while not heard.done():  # the first ones may come before the stream is open
            assert running.vpnexit("users", "add", "frank", "--password-file", "-", stdin="x\n").returncode == 0
            changed = running.vpnexit("users", "change", "frank", "--connections", "3", "--json")
            assert json.loads(changed.stdout)["max_connections"] == 3
            assert running.vpnexit("users", "remove", "frank").returncode == 0
    event = json.loads(heard.result().stdout)
    assert event["event"] in ("user", "audit")
    assert event["data"]["subject"] == "frank"


def test_no_api_there(running: Any) -> None:
    done = running.vpnexit("nodes", "list", "--api", "127.0.0.1:1")
    assert done.returncode == 3
    assert one_line(done) == "vpnexit: no answer from http://127.0.0.1:1: Connection refused; is it running?"
    done = running.vpnexit("nodes", "list", VPNEXIT_STATE_DIR="/nonexistent")
    assert done.returncode == 1
    assert one_line(done).startswith("vpnexit: cannot read the API's password /nonexistent/admin.password ")


def test_doctor_knows_what_up_started(running: Any) -> None:
    """The private Redis, the addresses that are ours, no Docker wanted, the clock of the real API."""
    found = json.loads(running.vpnexit("doctor", "--json").stdout)
    results = {check["check"]: check["result"] for check in found["checks"]}
    assert [results[name] for name in ("redis", "redis persistence", "redis memory", "clock")] == ["ok"] * 4
    assert (results["docker"], results["credentials"]) == ("skipped", "skipped")
    addresses = {name: result for name, result in results.items() if name.startswith("address ")}
    assert len(addresses) == 4
    assert set(addresses.values()) == {"ok"}
    assert sum("ours" in check["reason"] for check in found["checks"]) == 4
