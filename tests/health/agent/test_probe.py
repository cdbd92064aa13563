"""The probe's state machine, with a clock and a tunnel of the test's own."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from health.agent.probe import DOWN, STARTING, UP, Probe, Timing


class Tunnel:
    """Runs a probe against a tunnel: `reply(time)` is the round trip (seconds), or None for a lost question."""

    def __init__(self, reply: Callable[[float], float | None], chance: Callable[[], float] = lambda: 0.5) -> None:
        self.now = 0.0
        self.reply = reply
        self.probe = Probe(0.0, chance)
        self.probe.link(True, 0.0)
        self.sent: list[float] = []
        self.states: list[tuple[float, str, int]] = []
        self._under_way: list[tuple[float, int]] = []

    def run(self, until: float) -> None:
        while True:
            due = self.probe.due()
            arrivals = [at for at, _ in self._under_way]
            following = min([at for at in (due, *arrivals) if at is not None], default=until)
            if following > until:
                self.now = until
                return
            self.now = max(self.now, following)
            for arrival in [entry for entry in self._under_way if entry[0] <= self.now]:
                self._under_way.remove(arrival)
                self.probe.answered(arrival[1], self.now)
            number = self.probe.poll(self.now)
            if number is not None:
                self.sent.append(self.now)
                delay = self.reply(self.now)
                if delay is not None:
                    self._under_way.append((self.now + delay, number))
            self._note()

    def _note(self) -> None:
        state = (self.probe.state, self.probe.generation)
        if not self.states or self.states[-1][1:] != state:
            self.states.append((self.now, *state))


def test_one_answer_is_enough_at_the_start() -> None:
    tunnel = Tunnel(lambda _: 0.05)
    tunnel.run(1)
    assert tunnel.states[-1] == (pytest.approx(0.05), UP, 1)
    assert tunnel.probe.rtt == pytest.approx(0.05)


def test_a_tunnel_that_never_answers_stays_starting_and_is_asked_twice_a_second() -> None:
    tunnel = Tunnel(lambda _: None)
    tunnel.run(10)
    assert tunnel.probe.state == STARTING
    assert len(tunnel.sent) == 21


def test_a_healthy_tunnel_is_asked_every_two_seconds() -> None:
    tunnel = Tunnel(lambda _: 0.05)
    tunnel.run(100)
    assert len(tunnel.sent) == 51


@given(st.floats(0, 0.999), st.floats(1, 9), st.floats(0.001, 0.9))
def test_a_black_hole_is_noticed_within_five_seconds(chance: float, begins: float, delay: float) -> None:
    tunnel = Tunnel(lambda now: delay if now < begins else None, chance=lambda: chance)
    tunnel.run(20)
    went = [at for at, state, _ in tunnel.states if state == DOWN]
    assert len(went) == 1
    assert went[0] - begins <= 4.3


def test_coming_back_takes_two_answers_and_begins_a_generation() -> None:
    tunnel = Tunnel(lambda now: None if 4 <= now < 20 else 0.05)
    tunnel.run(30)
    assert [(state, generation) for _, state, generation in tunnel.states[-2:]] == [(DOWN, 1), (UP, 2)]
    assert tunnel.states[-1][0] - 20 <= 1.1


def test_a_single_answer_does_not_bring_it_back() -> None:
    answered: list[float] = []

    def reply(now: float) -> float | None:
        if now < 4:
            return 0.05
        if now >= 12 and not answered:
            answered.append(now)
            return 0.05
        return None

    tunnel = Tunnel(reply)
    tunnel.run(30)
    assert answered
    assert (tunnel.probe.state, tunnel.probe.generation) == (DOWN, 1)


def test_two_losses_are_forgiven() -> None:
    lost: list[float] = []

    def reply(now: float) -> float | None:
        if now >= 4 and len(lost) < 2:
            lost.append(now)
            return None
        return 0.05

    tunnel = Tunnel(reply)
    tunnel.run(20)
    assert len(lost) == 2
    assert [state for _, state, _ in tunnel.states] == [STARTING, UP]


def test_an_answer_after_the_timeout_is_none() -> None:
    tunnel = Tunnel(lambda now: 0.05 if now < 4 else 1.2)
    tunnel.run(20)
    assert tunnel.probe.state == DOWN
    assert tunnel.probe.rtt == pytest.approx(0.05)


def test_a_slow_tunnel_stays_up() -> None:
    tunnel = Tunnel(lambda _: 0.8)
    tunnel.run(60)
    assert [state for _, state, _ in tunnel.states] == [STARTING, UP]


def test_a_link_that_is_given_up_is_down_at_once_and_not_asked() -> None:
    tunnel = Tunnel(lambda _: 0.05)
    tunnel.run(1)
    tunnel.probe.link(False, tunnel.now)
    assert tunnel.probe.state == DOWN
    assert tunnel.probe.due() is None
    assert tunnel.probe.poll(tunnel.now) is None
    tunnel.probe.link(True, tunnel.now)
    tunnel.run(3)
    assert (tunnel.probe.state, tunnel.probe.generation) == (UP, 2)


def test_a_question_that_cannot_be_sent_counts_at_once() -> None:
    probe = Probe(0.0, lambda: 0.5)
    probe.link(True, 0.0)
    first = probe.poll(0.0)
    assert first is not None
    probe.answered(first, 0.01)
    assert probe.state == UP
    now = 2.01
    for _ in range(3):
        number = probe.poll(now)
        assert number is not None
        probe.failed(number)
        now += 0.5
    assert probe.state == DOWN
    assert now < 4


def test_an_answer_nobody_waits_for_changes_nothing() -> None:
    probe = Probe(0.0, lambda: 0.5)
    probe.link(True, 0.0)
    probe.answered(99, 0.0)
    probe.failed(99)
    assert (probe.state, probe.generation, probe.rtt) == (STARTING, 0, None)


def test_jitter_stays_within_its_share() -> None:
    for chance in (0.0, 0.999):
        tunnel = Tunnel(lambda _: 0.01, chance=lambda chance=chance: chance)  # type: ignore[misc]
        tunnel.run(50)
        gaps = [b - a for a, b in zip(tunnel.sent, tunnel.sent[1:], strict=False)]
        assert all(1.8 - 1e-9 <= gap <= 2.2 + 1e-9 for gap in gaps)


@given(st.lists(st.booleans(), max_size=60))
def test_generations_only_rise_and_only_with_up(outcomes: list[bool]) -> None:
    probe = Probe(0.0, lambda: 0.5, Timing(interval=1, doubt=1))
    probe.link(True, 0.0)
    before = (probe.state, probe.generation)
    for index, good in enumerate(outcomes):
        number = probe.poll(float(index))
        if number is None:
            continue
        if good:
            probe.answered(number, float(index))
        else:
            probe.failed(number)
        after = (probe.state, probe.generation)
        risen = after[1] - before[1]
        assert risen == (1 if before[0] != UP and after[0] == UP else 0)
        before = after
