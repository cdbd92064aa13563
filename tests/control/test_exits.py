"""Why a container ended, in plain words."""

import json

import pytest

from control.exits import MAX_REASON, REMOVED, by_others, credentials_refused, exit_reason


@pytest.mark.parametrize(
    ("code", "log", "expected"),
    [
        (
            69,
            'OpenVPN 2.6\n{"event": "ended", "code": 69, "reason": "the VPN server refused"}\n\n',
            "the VPN server refused",
        ),
        (69, "", "its container ended with status 69 (auth failed)"),
        (3, "not JSON\n", "its container ended with status 3"),
        (137, '{"event": "kill switch set"}\n', "its container was killed by signal 9"),
        (137, '{"event": "ended", "reason": 5}', "its container was killed by signal 9"),
        (0, '{"event": "ended", "code": 0, "reason": "asked to stop"}', "its container was stopped from outside"),
        (None, "[]", "its container ended"),
    ],
)
def test_reasons(code: int | None, log: str, expected: str) -> None:
    assert exit_reason(code, log) == expected


@pytest.mark.parametrize("code", [0, 137, 143, 69, 70, 3])
def test_what_others_did_is_told_from_a_failure(code: int) -> None:
    assert by_others(exit_reason(code, "")) is (code in (0, 137, 143))
    assert by_others(REMOVED)


def test_reasons_are_one_bounded_line() -> None:
    reason = exit_reason(1, json.dumps({"event": "ended", "reason": "a\nb\x1b[31m" + "x" * 1000}))
    assert len(reason) == MAX_REASON
    assert reason.isprintable()


@pytest.mark.parametrize(
    ("code", "log", "refused"),
    [
        (69, "", True),
        (None, '{"event": "ended", "code": 69, "reason": "the VPN server refused the credentials"}\n', True),
        (69, '{"event": "ended", "code": 67}', True),
        (67, '{"event": "ended", "code": 67}', False),
        (67, '{"event": "openvpn", "code": 69}\n{"event": "ended", "code": 67}', False),
        (0, "[" * 100_000, False),
        (137, '{"code": 69}', False),
        (None, "", False),
    ],
)
def test_refused_credentials_are_told_by_status_or_closing_line(code: int | None, log: str, refused: bool) -> None:
    assert credentials_refused(code, log) is refused
