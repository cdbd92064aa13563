import os
import stat
from pathlib import Path

import pytest

from health.agent.protocol import VPN_UID
from health.agent.spawn import read_as, spawn


def run(*arguments: str, **options: object) -> tuple[str, int]:
    reader, writer = os.pipe()
    pid = spawn(arguments, user=VPN_UID, group=VPN_UID, output=writer, **options)  # type: ignore[arg-type]
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    return text, os.waitstatus_to_exitcode(status)


def test_it_runs_under_the_user_in_no_other_group_with_no_secret_in_its_environment(
    namespaces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    text, code = run("sh", "-c", "id -u; id -G; env; echo problem >&2; exit 3", environment={"GIVEN": "1"})
    assert code == 3
    assert text.splitlines()[:2] == [str(VPN_UID)] * 2
    assert "problem" in text
    assert "GIVEN=1" in text
    assert "hunter2" not in text


def test_a_capability_does_not_come_along(namespaces: None) -> None:
    text, _ = run("sh", "-c", "grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status")
    assert {line.split()[1] for line in text.splitlines()} == {"0" * 16}


def test_a_file_of_that_user_is_read_as_that_user(namespaces: None, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    file = tmp_path / "client.ovpn"
    file.write_text("client\n")
    file.chmod(0o400)
    assert read_as(file, VPN_UID) is None
    os.chown(file, VPN_UID, VPN_UID)
    assert read_as(file, VPN_UID) == "client\n"
    assert read_as(tmp_path / "missing", VPN_UID) is None
