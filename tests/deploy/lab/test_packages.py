import stat
from pathlib import Path

import pytest

from deploy.lab import packages
from deploy.lab.shell import LabError

APT = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
case "$*" in
  "policy docker-cli") echo "  Candidate: (none)" ;;
  policy*) echo "  Candidate: 1.0" ;;
esac
[ -e "{policy}" ] && echo "held" >> "{log}"
exit 0
"""


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt-get, apt-cache and systemctl that only write down how they were called; nothing is installed."""
    log, policy = tmp_path / "log", tmp_path / "policy-rc.d"
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "apt-cache", "systemctl"):
        program = tools / name
        program.write_text(APT.format(log=log, policy=policy))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "POLICY", policy)
    monkeypatch.setattr(packages, "is_root", lambda: True)
    monkeypatch.setattr(packages, "is_debian", lambda: True)
    return log


def test_nothing_is_done_where_nothing_is_missing(apt: Path) -> None:
    packages.ensure({"sh": "dash"}, "a test")
    assert not apt.exists()


def test_what_is_missing_is_installed_but_not_started(apt: Path) -> None:
    packages.ensure({"sh": "dash", "vx-a": "docker.io", "vx-b": "docker-cli"}, "a test")
    lines = apt.read_text().splitlines()
    assert "apt-get install -y --no-install-recommends docker.io" in lines
    assert lines[lines.index("apt-get install -y --no-install-recommends docker.io") + 1] == "held"
    assert "systemctl disable docker.socket" in lines
    assert not packages.POLICY.exists()


def test_a_policy_of_the_machines_own_stays(apt: Path) -> None:
    packages.POLICY.write_text("the machine's own")
    packages.POLICY.chmod(0o700)
    packages.ensure({"vx-a": "haproxy"}, "a test")
    assert packages.POLICY.read_text() == "the machine's own"
    assert stat.S_IMODE(packages.POLICY.stat().st_mode) == 0o700


def test_elsewhere_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_debian", lambda: False)
    with pytest.raises(LabError, match=r"^the lab needs haproxy, nftables: install them"):
        packages.ensure({"vx-a": "haproxy", "vx-b": "nftables", "sh": "dash"}, "the lab")


@pytest.mark.parametrize(
    ("release", "debian"), [("ID=debian", True), ("ID=ubuntu\nID_LIKE=debian", True), ("ID=fedora", False)]
)
def test_debian_is_known_by_its_release_file(
    release: str, debian: bool, apt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{apt.parent / 'bin'}:/usr/bin:/bin")
    values = dict(line.split("=") for line in release.splitlines())
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: values)
    assert packages.is_debian() is debian
