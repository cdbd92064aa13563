"""The generated password of the API's admin."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from control.passwords import PasswordError, admin_password, hash_password


def test_it_is_generated_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "deep" / "state"
    first = admin_password(state)
    assert len(first) >= 32
    assert admin_password(state) == first
    path = state / "admin.password"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in state.iterdir()] == ["admin.password"]
    assert admin_password(tmp_path / "other") != first


def test_many_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: admin_password(tmp_path), range(32)))) == 1


@pytest.mark.parametrize("text", ["", " \n", "changeme", "Password\n"])
def test_placeholders_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "admin.password").write_text(text)
    with pytest.raises(PasswordError, match="placeholder"):
        admin_password(tmp_path)


def test_an_unusable_state_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PasswordError, match=r"admin\.password: "):
        admin_password(tmp_path / "file")


async def test_hashes_differ_for_the_same_password() -> None:
    assert await hash_password("x") != await hash_password("x")
