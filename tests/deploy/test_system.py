"""What `make test` installs, and that it goes on where it may not."""

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
    assert {"redis-server", "haproxy", "curl", "dockerd", "openvpn", "wireguard-go", "chromium", "sshd"} <= set(asked)


def test_everything_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(packages, "ensure", lambda wanted, purpose: None)
    system.main()
    assert capsys.readouterr().err == ""
