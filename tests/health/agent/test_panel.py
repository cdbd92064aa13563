"""Who counts as a witness, and what the witnesses say together. No socket, no clock."""

from hypothesis import given
from hypothesis import strategies as st

from health.agent.panel import TIMEOUT, Panel

DNS = ("103.86.96.100", "103.86.99.100")
A, B, C = "198.18.0.1:443", "198.18.0.2:443", "198.18.0.3:443"
ALL = (*DNS, A, B, C)


class World:
    """Rounds two seconds apart; `dead` are the witnesses that do not answer, `took` how long the others need."""

    def __init__(self, servers: tuple[str, ...] = DNS, targets: tuple[str, ...] = (A, B, C)) -> None:
        self.panel = Panel()
        self.servers, self.targets = servers, targets
        self.now = 0.0
        self.number = 0

    def round(self, *dead: str, took: float = 0.02) -> bool:
        """Whether it was a good one."""
        self.number += 1
        self.panel.begin(self.number, self.servers, self.targets, self.now)
        alive = [name for name in (*self.servers, *self.targets) if name not in dead]
        good = [self.panel.answered(self.number, name, self.now + took) for name in alive]
        assert good.count(True) <= 1, "a round becomes good once"
        self.now += 2
        self.panel.expire(self.now)
        return any(good)


def test_all_answer() -> None:
    world = World()
    assert world.round()
    assert world.panel.measured(world.now) == {
        "loss": 0,
        "connect_ms": 20,
        "jitter_ms": None,
        "dns_ms": 20,
        "dns_ok": True,
        "targets": {A: 20, B: 20, C: 20},
    }


def test_half_of_the_witnesses_may_be_dead() -> None:
    world = World()
    assert world.round()
    for _ in range(30):
        assert world.round(A, DNS[0])
    measured = world.panel.measured(world.now)
    assert (measured["loss"], measured["connect_ms"], measured["dns_ok"]) == (0, 20, True)
    assert measured["targets"] == {A: None, B: 20, C: 20}


def test_targets_that_die_one_after_the_other_take_no_exit_down() -> None:
    world = World()
    for _ in range(3):
        assert world.round()
    for dead in ((A,), (A, B), (A, B, C)):
        for _ in range(30):
            assert world.round(*dead)
    measured = world.panel.measured(world.now)
    assert (measured["loss"], measured["connect_ms"], measured["dns_ok"]) == (0, None, True)
    for _ in range(3):
        assert world.round()
    assert not world.round(A, B, C), "those that are back count again"


def test_who_died_with_the_tunnel_is_waited_for() -> None:
    world = World()
    assert world.round()
    for _ in range(100):
        assert not world.round(A, B, C)
    assert world.round(A, B)


def test_targets_that_were_never_let_through_are_no_evidence() -> None:
    world = World()
    for _ in range(30):
        assert world.round(A, B, C)
    measured = world.panel.measured(world.now)
    assert (measured["loss"], measured["connect_ms"]) == (0, None)
    assert world.panel.only_named


def test_one_host_is_no_agreement() -> None:
    world = World(targets=(A, "198.18.0.1:80"))
    assert world.round()
    assert world.round(A, "198.18.0.1:80")
    assert world.panel.loss == 0


def test_a_server_that_answers_while_nothing_leaves_it() -> None:
    world = World()
    assert world.round()
    for _ in range(3):
        assert not world.round(A, B, C)
    assert world.panel.only_named
    assert world.panel.measured(world.now)["connect_ms"] is None
    assert world.round(A, B), "one is enough again"


def test_without_names_an_exit_is_of_no_use() -> None:
    world = World()
    assert world.round()
    assert world.panel.measured(world.now)["dns_ok"]
    assert not world.round(*DNS)
    assert world.panel.measured(world.now)["dns_ok"], "one question may be lost"
    assert not world.round(*DNS)
    assert not world.round(*DNS)
    assert world.panel.measured(world.now)["dns_ok"] is False


def test_a_lossy_tunnel_loses_to_everybody() -> None:
    world = World()
    world.round()
    for turn in range(19):
        world.round(*(ALL if turn % 2 else ()))
    assert world.panel.loss == 9 / 20


def test_a_slow_round_is_seen_while_it_waits() -> None:
    world = World()
    world.round()
    world.panel.begin(99, DNS, (A, B, C), world.now)
    assert world.panel.measured(world.now + 0.01)["connect_ms"] == 20
    assert world.panel.measured(world.now + 0.5)["connect_ms"] == 500
    world.panel.answered(99, A, world.now + 0.52)
    world.panel.answered(99, B, world.now + 0.54)
    world.panel.expire(world.now + TIMEOUT)
    assert world.panel.measured(world.now + TIMEOUT)["connect_ms"] == 520


def test_a_slow_target_is_not_a_slow_tunnel() -> None:
    """One is slow, by turns, and one may be dead besides: what is left says how the tunnel is."""
    for dead in ((), (C,)):
        world = World()
        world.round()
        for turn in range(5):
            world.number += 1
            world.panel.begin(world.number, DNS, (A, B, C), world.now)
            for name in {*DNS, B, C}.difference(dead):
                world.panel.answered(world.number, name, world.now + 0.02)
            world.panel.answered(world.number, A, world.now + 0.5 + 0.4 * (turn % 2))
            world.now += 2
            world.panel.expire(world.now)
        measured = world.panel.measured(world.now)
        assert (measured["connect_ms"], measured["jitter_ms"]) == (20, 0)
        assert measured["targets"][A] == 500


def test_jitter_is_how_much_connect_times_move() -> None:
    world = World()
    for turn in range(40):
        world.round(took=0.02 + 0.01 * (turn % 2))
    assert world.panel.measured(world.now)["jitter_ms"] == 10


def test_what_the_old_tunnel_lost_is_forgotten() -> None:
    world = World()
    world.round()
    for _ in range(5):
        world.round(*ALL)
    assert world.panel.loss > 0.5
    world.panel.begin(50, DNS, (A, B, C), world.now)
    for name in (DNS[0], A):
        world.panel.answered(50, name, world.now + 0.1)
    world.panel.renew(50)
    for name in (DNS[1], B, C):
        world.panel.answered(50, name, world.now + 0.2)
    assert world.panel.loss == 0
    assert world.panel.measured(world.now)["connect_ms"] == 200
    assert not world.round(A, B, C), "who ever spoke is still known"


def test_all_of_them_refused_at_once() -> None:
    panel = Panel()
    panel.begin(1, DNS[:1], (A, B), 0.0)
    assert [panel.failed(1, name) for name in (DNS[0], A, B)] == [False, False, True]
    assert not panel.failed(1, A)
    assert not panel.answered(1, A, 0.1)


def test_other_name_servers_are_other_witnesses() -> None:
    world = World()
    world.round()
    world.round(*ALL)
    world.servers = ("10.0.0.1",)
    assert world.round()
    assert world.panel.measured(world.now)["targets"] == {A: 20, B: 20, C: 20}


@given(
    st.lists(st.tuples(st.sampled_from(("ask", "answer", "fail", "expire", "renew")), st.integers(0, 9)), max_size=80)
)
def test_whatever_happens_the_numbers_make_sense(events: list[tuple[str, int]]) -> None:
    panel, now, number = Panel(), 0.0, 0
    for what, which in events:
        now += which / 10
        if what == "ask":
            number += 1
            panel.begin(number, DNS[: which % 3], (A, B, C)[: which % 4], now)
        elif what == "answer":
            panel.answered(max(number - which // 5, 0), ALL[which % 5], now)
        elif what == "fail":
            panel.failed(number, ALL[which % 5])
        elif what == "renew":
            panel.renew(number)
        else:
            panel.expire(now)
        measured = panel.measured(now)
        assert 0 <= measured["loss"] <= 1
        assert all(measured[key] is None or measured[key] >= 0 for key in ("connect_ms", "jitter_ms", "dns_ms"))
