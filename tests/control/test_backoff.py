"""Back-off per slot."""

import itertools
import random

from control.backoff import Backoff


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


def test_a_tenth_of_a_second_doubling_to_a_minute() -> None:
    backoff = Backoff(NoJitter())
    delays = [backoff.failed("jp-0", 100.0, "x") for _ in range(40)]
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert delays[-1] == 60.0
    assert all(later >= earlier for earlier, later in itertools.pairwise(delays))
    assert backoff.not_before["jp-0"] == 160.0


def test_the_jitter_takes_a_quarter_at_most_and_differs() -> None:
    backoff = Backoff(random.Random(1))
    delays = {backoff.failed(f"jp-{number}", 0.0, "x") for number in range(50)}
    assert len(delays) == 50
    assert all(0.075 <= delay <= 0.1 for delay in delays)


def test_ten_seconds_of_service_start_the_count_anew() -> None:
    backoff = Backoff(NoJitter())
    for _ in range(5):
        backoff.failed("jp-0", 0.0, "x", served=9.9)
    assert backoff.failed("jp-0", 0.0, "x", served=9.9) > 1
    assert backoff.failed("jp-0", 0.0, "x", served=10.0) == 0.1


def test_waiting_for_a_slot_is_no_failure() -> None:
    backoff = Backoff(NoJitter())
    for _ in range(9):
        assert backoff.wait("jp-0", 5.0, 1.0) == 1.0
    assert backoff.not_before["jp-0"] == 6.0
    assert backoff.failed("jp-0", 0.0, "x") == 0.1


def test_why_nothing_is_placed_comes_first_and_goes_with_the_next_that_is() -> None:
    backoff = Backoff()
    backoff.failed("jp-0", 0.0, "image is missing")
    backoff.unplaced("jp", "every account is in full use")
    assert backoff.reason("jp") == "every account is in full use"
    backoff.unplaced("jp", "")
    assert backoff.reason("jp") == "image is missing"


def test_slots_do_not_share_and_reasons_are_forgotten_with_success() -> None:
    backoff = Backoff()
    backoff.failed("jp-0", 0.0, "no server")
    backoff.failed("jp-0", 0.0, "no server")
    assert backoff.failed("jp-1", 0.0, "other") <= 0.1
    assert backoff.reason("jp") == "other"
    assert backoff.reason("us") == ""
    backoff.succeeded("jp-1")
    assert backoff.reason("jp") == "no server"
    backoff.succeeded("jp-0")
    assert backoff.reason("jp") == ""
