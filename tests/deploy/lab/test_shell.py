import os

import pytest

from deploy.lab.shell import LabError, has, run, succeeds


def test_run_gives_the_output_and_adds_to_the_environment() -> None:
    assert run(["sh", "-c", "cat; printf %s $VX_SHELL"], stdin="in ", env={"VX_SHELL": "added"}) == "in added"


def test_a_failure_says_its_last_line() -> None:
    with pytest.raises(LabError, match=r"^sh -c .* failed \(3\): the reason$"):
        run(["sh", "-c", "echo noise; echo the reason >&2; exit 3"])


def test_a_missing_program_and_a_late_one_are_one_line_each() -> None:
    with pytest.raises(LabError, match=r"^vx-no-such-program is not installed$"):
        run(["vx-no-such-program"])
    with pytest.raises(LabError, match=r"^sleep 5 did not end within 0\.1 s$"):
        run(["sleep", "5"], timeout=0.1)


def test_succeeds_and_has() -> None:
    assert succeeds(["true"])
    assert not succeeds(["false"])
    assert not succeeds(["vx-no-such-program"])
    assert has("sh")
    assert not has("vx-no-such-program")


def test_has_looks_where_a_plain_users_path_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert has("ldconfig") == any(os.access(f"{place}/ldconfig", os.X_OK) for place in ("/usr/sbin", "/sbin"))
