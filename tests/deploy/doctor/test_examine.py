"""Which checks are run for which configuration."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from control.config import ControlSettings, CustomSettings, NordVpnAccount, NordVpnSettings
from deploy.config import Settings
from deploy.doctor import examine
from deploy.doctor.examine import Subject
from deploy.doctor.model import Check, Looked, Result, Skipped, failed, ok


def test_exits_are_examined_where_there_are_any(tmp_path: Path) -> None:
    names = {check.name: type(check) for check in examine.checks(Subject(Settings(state_dir=tmp_path)))}
    assert names["docker"] is names["tun"] is names["credentials"] is Check
    none = Settings(state_dir=tmp_path, control=ControlSettings(engine="none"))
    for subject in (Subject(none), Subject(Settings(state_dir=tmp_path), embedded=True)):
        skipped = {check.name for check in examine.checks(subject) if isinstance(check, Skipped)}
        assert skipped >= {"docker", "live-restore", "image", "tun", "nftables", "conntrack", "credentials"}


def test_providers_are_examined_as_configured(tmp_path: Path) -> None:
    def names(**settings: Any) -> set[str]:
        return {check.name for check in examine.checks(Subject(Settings(state_dir=tmp_path, **settings)))}

    files = CustomSettings(directory=tmp_path)
    account = NordVpnSettings(accounts=(NordVpnAccount(name="main", token_file=tmp_path / "token"),))
    both = {"credentials", "VPN files"}
    assert names() & both == {"credentials"}
    assert names(custom=files) & both == {"VPN files"}
    assert names(custom=files, nordvpn=account) & both == both


def test_findings_come_in_order_and_one_that_breaks_spoils_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise ValueError

    some: list[Looked] = [
        Check("a", lambda: 1, lambda _: [ok("a", "x"), failed("a2", "y")]),
        Check("b", broken, lambda _: []),
        Skipped("c", "z"),
    ]
    monkeypatch.setattr(examine, "checks", lambda subject: some)
    found = examine.examine(Subject(Settings()))
    assert [(f.check, f.result) for f in found] == [
        ("a", Result.OK),
        ("a2", Result.FAILED),
        ("b", Result.FAILED),
        ("c", Result.SKIPPED),
    ]


def test_an_up_that_runs_is_seen_and_one_that_ran_is_not(tmp_path: Path) -> None:
    assert not examine.runs_embedded(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()", "up"], stdin=subprocess.PIPE) as process:
        (tmp_path / "up.lock").write_text(str(process.pid))
        deadline = time.monotonic() + 30
        while not examine.runs_embedded(tmp_path):  # right after exec(2) a process has no command line yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.communicate(b"\n", timeout=30)
    assert not examine.runs_embedded(tmp_path)
    (tmp_path / "up.lock").write_text("../self")
    assert not examine.runs_embedded(tmp_path)
