"""Back-off per slot."""

import itertools

from control.backoff import Backoff


def test_at_once_then_doubling_to_a_minute() -> None:
    backoff = Backoff()
    delays = [backoff.failed("jp-0", 100.0, "x") for _ in range(40)]
    assert delays[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 60.0
    assert all(later >= earlier for earlier, later in itertools.pairwise(delays))
    assert backoff.not_before["jp-0"] == 160.0


def test_ten_seconds_of_service_start_the_count_anew() -> None:
    backoff = Backoff()
    for _ in range(5):
        backoff.failed("jp-0", 0.0, "x", served=9.9)
    assert backoff.failed("jp-0", 0.0, "x", served=9.9) > 0
    assert backoff.failed("jp-0", 0.0, "x", served=10.0) == 0.0


def test_slots_do_not_share_and_reasons_are_forgotten_with_success() -> None:
    backoff = Backoff()
    backoff.failed("jp-0", 0.0, "no server")
    backoff.failed("jp-0", 0.0, "no server")
    assert backoff.failed("jp-1", 0.0, "other") == 0.0
    assert backoff.reason("jp") == "other"
    assert backoff.reason("us") == ""
    backoff.succeeded("jp-1")
    assert backoff.reason("jp") == "no server"
    backoff.succeeded("jp-0")
    assert backoff.reason("jp") == ""
