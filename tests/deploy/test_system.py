"""What `make test` installs, and that it goes on where it may not."""

import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from deploy import system
from deploy.lab import packages
from deploy.lab.shell import LabError


def test_goes_on_without_rights(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = {}

    def refuse(wanted: dict[str, str], purpose: str) -> None:
        asked.update(wanted)
        raise LabError(f"{purpose} needs openvpn: install them")

    monkeypatch.setattr(packages, "ensure", refuse)
    system.main()
    assert capsys.readouterr().err == "vpnexit: a complete test run needs openvpn: install them\n"
    assert {
        "redis-server",
        "haproxy",
        "curl",
        "dockerd",
        "openvpn",
        "wireguard-go",
        "chromium",
        "sshd",
        "faketime",
    } <= set(asked)


def test_everything_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(packages, "ensure", lambda wanted, purpose: None)
    system.main()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("headers", "more"), [(True, set()), (False, {"python3.11-config"})])
def test_the_headers_of_debians_python(
    headers: bool, more: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setattr(sys, "version_info", SimpleNamespace(major=3, minor=11))
    if headers:
        (tmp_path / "Python.h").touch()
    assert set(system.wanted()) - set(system.WANTED) == more
