"""A check: looks, judges, and never breaks the others."""

import errno

from deploy.doctor.model import Check, Result, Skipped, failed, ok, warning


def test_what_was_seen_is_judged() -> None:
    check = Check("x", lambda: 3, lambda seen: [ok("x", f"{seen} seen"), warning("x", "much", "so", "do")])
    assert [finding.result for finding in check.run()] == [Result.OK, Result.WARNING]
    assert check.run()[1] == warning("x", "much", "so", "do")


def test_a_look_that_fails_is_a_finding() -> None:
    def look() -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    assert Check("x", look, lambda _: []).run() == [failed("x", "could not be looked at: Permission denied")]


def test_a_check_that_breaks_is_a_finding_without_details() -> None:
    def judge(_: int) -> list[object]:
        raise KeyError("a secret")

    (finding,) = Check("x", lambda: 1, judge).run()  # type: ignore[arg-type]
    assert finding.result is Result.FAILED
    assert "secret" not in finding.reason


def test_skipped() -> None:
    (finding,) = Skipped("x", "not here").run()
    assert (finding.result, finding.reason) == (Result.SKIPPED, "not here")
