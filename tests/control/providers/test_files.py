"""Files that hold secrets: bounded, private, and plain words for whatever else."""

import os
from pathlib import Path

import pytest

from control.providers import ProviderError
from control.providers.files import read_bounded, read_private, write_private


def test_what_is_written_is_private_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "secret"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_private(path) == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["secret"]


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_what_everybody_may_read_or_change_is_no_secret(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"secret")
    path.chmod(mode)
    with pytest.raises(ProviderError, match="everybody may read or change it: chmod 600 ") as caught:
        read_private(path)
    assert str(caught.value).count("secret") == str(path).count("secret") * 2 + 1
    if mode & 0o002:
        with pytest.raises(ProviderError, match=r"everybody may change .*: chmod o-w"):
            read_bounded(path)
    else:
        assert read_bounded(path) == b"secret"


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640, 0o440])
def test_owner_and_group_may_read(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(mode)
    assert read_private(path) == b"x"


def test_what_is_no_file_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path, words in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
        (Path("/dev/null"), "is not a file"),
        (tmp_path / "nul\0", "null"),
    ):
        with pytest.raises(ProviderError, match=words):
            read_private(path)


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ProviderError, match="longer than 10 bytes"):
        read_bounded(path, 10)
    assert read_bounded(path, 11) == b"x" * 11
