"""`vpnexit doctor` as a command: what it shows, and its exit code."""

import json
from typing import Any

import pytest

from deploy.commands.doctor import worst
from deploy.doctor import examine
from deploy.doctor.model import Finding, Result, failed, ok, skipped, warning

FINDINGS = [
    ok("kernel", "Linux 6.1"),
    skipped("haproxy", "not installed"),
    warning("redis persistence", "nothing is kept [on disk]", "It is lost.", "redis-cli CONFIG SET appendonly yes"),
    failed("live-restore", "it is off", "Exits end.", 'put "live-restore": true into /etc/docker/daemon.json'),
]


@pytest.fixture
def findings(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    found = list(FINDINGS)
    monkeypatch.setattr(examine, "examine", lambda subject: found)
    return found


def test_what_it_shows(findings: list[Finding], cli: Any) -> None:
    done = cli("doctor")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "✓ kernel: Linux 6.1",
        "- haproxy: not installed",
        "! redis persistence: nothing is kept [on disk]",
        "    means  It is lost.",
        "    mend   redis-cli CONFIG SET appendonly yes",
        "✗ live-restore: it is off",
        "    means  Exits end.",
        '    mend   put "live-restore": true into /etc/docker/daemon.json',
        "1 failed, 1 warning, 1 skipped, 1 ok",
    ]
    assert "kernel" not in cli("doctor", "--quiet").stdout


def test_exit_codes(findings: list[Finding], cli: Any) -> None:
    findings.pop()
    assert cli("doctor").returncode == 0


def test_json(findings: list[Finding], cli: Any) -> None:
    done = cli("doctor", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["result"] == "failed"
    assert document["checks"][0] == {
        "check": "kernel",
        "result": "ok",
        "reason": "Linux 6.1",
        "meaning": "",
        "mend": "",
    }


def test_wrong_configuration(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNEXIT_REDIS__URL", "nonsense")
    done = cli("doctor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vpnexit: wrong configuration: redis.url (from VPNEXIT_REDIS__URL)")


def test_worst() -> None:
    assert worst(FINDINGS) is Result.FAILED
    assert worst(FINDINGS[:3]) is Result.WARNING
    assert worst(FINDINGS[:2]) is Result.OK
    assert worst([]) is Result.OK
