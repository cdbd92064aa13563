"""Token files and keys; the provider is a stand-in that answers as told."""

import base64
from pathlib import Path
from typing import Any

import pytest

from control.config import NordVpnAccount, NordVpnSettings
from deploy.doctor import credentials
from deploy.doctor.model import Finding, Result
from tests.deploy.commands.standin import StandIn, standing_in

SECRET = "e9f2ab265d4f4e5f8a1b6c7d"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(SECRET + "\n")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    return tmp_path


def settings(files: Path, **more: Any) -> NordVpnSettings:
    account = NordVpnAccount(name="main", token_file=files / "token")
    return NordVpnSettings(accounts=(account,), **({"ca_file": files / "ca.pem"} | more))


def examined(given: NordVpnSettings, online: bool = False) -> dict[str, Finding]:
    found = {finding.check: finding for finding in credentials.judge(credentials.look(given, online))}
    assert SECRET not in str(found)
    return found


def test_all_is_well(files: Path) -> None:
    found = examined(settings(files))
    assert [*found] == ["account main", "ca_file"]
    assert {finding.result for finding in found.values()} == {Result.OK}


def test_no_account() -> None:
    (finding,) = examined(NordVpnSettings()).values()
    assert finding.result is Result.WARNING
    assert "[[nordvpn.accounts]]" in finding.mend


@pytest.mark.parametrize("text", ["", "\n", "changeme", "your-token", "two words", "<token>", "töken", "x\0y"])
def test_files_that_hold_no_token(files: Path, text: str) -> None:
    (files / "token").write_text(text)
    finding = examined(settings(files))["account main"]
    assert (finding.result, finding.reason) == (Result.FAILED, f"{files / 'token'} holds no access token")


def test_a_token_that_others_may_read(files: Path) -> None:
    (files / "token").chmod(0o640)
    finding = examined(settings(files))["account main"]
    assert finding.result is Result.FAILED
    assert finding.reason == f"{files / 'token'} may be read by others (mode 0640)"
    assert finding.mend == f"chmod 600 {files / 'token'}"


def test_files_that_are_not_there_or_cannot_be_read(files: Path) -> None:
    (files / "token").unlink()
    assert examined(settings(files))["account main"].reason == f"{files / 'token'}: it is not there"
    (files / "token").mkdir()
    assert examined(settings(files))["account main"].reason == f"{files / 'token'}: Is a directory"


def test_keys(files: Path) -> None:
    found = examined(settings(files, ca_file=None))
    assert (found["ca_file"].result, found["ca_file"].reason) == (Result.FAILED, "nordvpn.ca_file is not set")
    (files / "ca.pem").write_text("nothing of the kind")
    found = examined(settings(files, tls_auth_file=files / "none"))
    assert found["ca_file"].reason == f"{files / 'ca.pem'}: holds no certificate (PEM)"
    assert found["tls_auth_file"].reason == f"{files / 'none'}: it is not there"
    (files / "key").write_text("-----BEGIN OpenVPN Static key V1-----\n")
    assert "tls_auth_file" not in examined(settings(files, tls_auth_file=files / "key"))


@pytest.mark.parametrize(
    ("status", "result", "reason"),
    [
        (200, Result.OK, "takes its token"),
        (401, Result.FAILED, "refuses its token"),
        (403, Result.FAILED, "refuses its token"),
        (429, Result.WARNING, "answered 429"),
        (302, Result.WARNING, "answered 302"),
    ],
)
def test_online(files: Path, status: int, result: Result, reason: str) -> None:
    with standing_in() as provider:
        provider.answers[f"GET {credentials.ASK}"] = (status, {})
        given = settings(files, api_url=f"http://{provider.address}")
        finding = examined(given, online=True)["account main"]
        assert (finding.result, finding.reason) == (result, f"{provider.address} {reason}")
        assert _login(provider) == f"token:{SECRET}"
        assert len(provider.asked) == 1
        examined(given)
        assert len(provider.asked) == 1  # without --online nobody is asked


def test_nobody_answers(files: Path) -> None:
    finding = examined(settings(files, api_url="http://127.0.0.1:1"), online=True)["account main"]
    assert (finding.result, finding.reason) == (Result.WARNING, "127.0.0.1:1 did not answer")


def _login(provider: StandIn) -> str:
    return base64.b64decode(provider.asked[0].headers["Authorization"].removeprefix("Basic ")).decode()
