"""`vpnexit users`."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.commands.standin import StandIn

USER = {
    "name": "bob",
    "allowed_countries": ["jp", "gb"],
    "default_country": None,
    "max_connections": 20,
    "bytes_per_second": 10_000_000,
    "monthly_bytes": None,
    "month_bytes": 1234,
}
PATH = "/api/users/bob"


def test_change(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    standin.answers[f"PATCH {PATH}"] = (200, USER)
    (tmp_path / "secret").write_text("new one\n")
    done = cli("users", "change", "bob", "--rate", "5MB", "--monthly", "none", "--countries", "none")
    assert (done.returncode, done.stdout) == (0, "bob is changed\n")
    cli("users", "change", "bob", "--password-file", str(tmp_path / "secret"), "--default-country", "jp")
    cli("users", "change", "bob", "--password-file", "-", "--connections", "none", stdin="piped")
    assert standin.bodies(f"PATCH {PATH}") == [
        {"allowed_countries": [], "bytes_per_second": 5_000_000, "monthly_bytes": None},
        {"default_country": "jp", "password": "new one"},
        {"max_connections": None, "password": "piped"},
    ]
    done = cli("users", "change", "bob")
    assert done.returncode == 2
    assert "nothing to change" in done.stderr
    done = cli("users", "change", "bob", "--password")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "use --password-file FILE, or - for standard input" in done.stderr


def test_list_and_show(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/users"] = (200, [USER])
    row = cli("users", "list").stdout.splitlines()[1]
    assert row.split() == ["bob", "jp,", "gb", "20", "10.0", "MB/s", "1.23", "kB"]
    standin.answers[f"GET {PATH}"] = (200, USER)
    assert json.loads(cli("users", "show", "bob", "--json").stdout) == USER
    assert "month bytes        1234\n" in cli("users", "show", "bob").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--connections", "many"], "'many' is no number: write 20, or `none`"),
        (["--rate", "fast"], "'fast' is no amount of bytes: write 500kB"),
        (["--rate", "9" * 4000], "is no amount of bytes"),
        (["--countries", "jp,\udcff"], "up to 253 printable characters"),
    ],
)
def test_limits_that_are_none(standin: StandIn, cli: Any, words: list[str], said: str) -> None:
    done = cli("users", "add", "bob", *words, "--password-file", "-", stdin="x")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert standin.asked == []
    assert len(done.stderr) < 1500


@pytest.mark.parametrize("name", ["bob-country-jp", "ä", "x" * 65, "a/b"])
def test_a_name_that_is_none_costs_nobody_a_password(standin: StandIn, cli: Any, name: str) -> None:
    done = cli("users", "add", name)
    assert done.returncode == 2
    assert "1 to 64 letters, digits" in " ".join(done.stderr.replace("│", " ").split())
    assert standin.asked == []


def test_nor_does_one_that_is_taken(standin: StandIn, cli: Any) -> None:
    standin.answers[f"GET {PATH}"] = (200, USER)
    done = cli("users", "add", "bob")
    assert (done.returncode, done.stderr) == (
        1,
        "vpnexit: there is a user bob already: `vpnexit users change bob --password` gives it another one\n",
    )


def test_a_secret_that_cannot_be_one(standin: StandIn, cli: Any, tmp_path: Path) -> None:
    done = cli("users", "add", "bob", "--password-file", "-", stdin="x" * 1_000_000)
    assert (done.returncode, done.stderr) == (1, "vpnexit: the password is longer than 4096 bytes\n")
    done = cli("users", "add", "bob", "--password-file", "-", stdin=b"\xff\xfe")
    assert (done.returncode, done.stderr) == (1, "vpnexit: cannot read -: it is not UTF-8 text\n")
    done = cli("users", "add", "bob", "--password-file", str(tmp_path))
    assert (done.returncode, done.stderr) == (1, f"vpnexit: cannot read {tmp_path}: Is a directory\n")
    assert standin.asked == []
