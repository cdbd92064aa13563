"""Whether an upstream's password is there."""

import os
from pathlib import Path

import pytest

from control.upstream_passwords import lacking

URL = "socks5://me@proxy.example:1080"


def test_one_that_asks_nobody_lacks_nothing(tmp_path: Path) -> None:
    assert lacking(tmp_path / "none", "socks5://proxy.example:1080") == ""


def test_what_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    file = tmp_path / "me@proxy.example:1080"
    assert lacking(tmp_path, URL) == (
        f"not used: the file with its password is missing, {file}; put it there, in the first line"
    )
    assert "is missing" in lacking(tmp_path / "none", URL)
    file.touch()
    assert "is empty" in lacking(tmp_path, URL)
    file.write_text("geheim")
    assert lacking(tmp_path, URL) == ""


def test_a_directory_that_is_closed_to_us_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> os.stat_result:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", closed)
    assert lacking(tmp_path, URL) == ""
