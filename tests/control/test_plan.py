"""The plan, as a table of small worlds and as a machine that must converge from anywhere."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.model import (
    ACTIVE,
    Advance,
    AgentView,
    Container,
    Create,
    Forget,
    Limits,
    Outcome,
    Place,
    Remove,
    RemoveOrphan,
    Retire,
    Step,
    Stop,
    Verdict,
    Verify,
    World,
    slot_index,
)
from control.plan import plan
from control.poolplan import EXTRA
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol, Tunnel

NOW = 1000.0
PASSED = Verdict(Outcome.PASSED, 1, "", "203.0.113.7", "jp", at=NOW)


def node(number: int = 0, status: NodeStatus = NodeStatus.SERVING, **fields: Any) -> Node:
    fields.setdefault("slot", f"jp-{number}")
    if status in (NodeStatus.SERVING, NodeStatus.DRAINING):
        fields = {"exit_ip": "203.0.113.7", "exit_country": "jp", "generation": 1, **fields}
    return Node(id=f"jp{number:06x}", country="jp", kind=NodeKind.VPN, machine="m", status=status, **fields)


def container(of: Node, state: str = "running") -> Container:
    code = 137 if state == "exited" else None
    return Container(f"c-{of.id}", f"vpnexit-{of.id}", of.id, of.country, of.slot, state, code)


def world(*nodes: Node, desired: int = 1, running: bool = True, **fields: Any) -> World:
    fields.setdefault("containers", tuple(container(n) for n in nodes if running and not n.status.ended))
    fields.setdefault("claims", {n.slot: n.id for n in nodes})
    fields.setdefault("agents", {n.id: AgentView(Tunnel.UP, 1, NOW - 100) for n in nodes})
    fields.setdefault("verdicts", {n.id: PASSED for n in nodes if n.status is NodeStatus.SERVING})
    fields.setdefault("pools", {"jp": Pool(country="jp", desired=desired)})
    return World(now=NOW, nodes={n.id: n for n in nodes}, **fields)


def only(steps: list[Step]) -> Step:
    assert len(steps) == 1, steps
    return steps[0]


def test_a_fleet_as_wished_needs_nothing() -> None:
    assert plan(world(node(0), node(1), desired=2)) == []


def test_missing_nodes_are_placed_in_the_lowest_free_slots_one_by_one_up_to_desired() -> None:
    steps = plan(world(node(1), desired=3))
    assert steps == [Place("jp-0", "jp", ""), Place("jp-2", "jp", "")]


def test_a_slot_in_back_off_is_waited_for_not_hopped_over() -> None:
    assert plan(world(desired=1, not_before={"jp-0": NOW + 1})) == []
    assert plan(world(desired=1, not_before={"jp-0": NOW})) == [Place("jp-0", "jp", "")]


def test_placing_expects_the_holder_that_was_seen() -> None:
    gone = node(0, NodeStatus.FAILED)
    assert Place("jp-0", "jp", gone.id) in plan(world(gone))


def test_busy_keys_are_left_alone_and_a_slot_being_placed_counts() -> None:
    assert plan(world(desired=1, busy=frozenset({"jp-0"}))) == []
    assert plan(world(desired=2, busy=frozenset({"jp-0"}))) == [Place("jp-1", "jp", "")]
    requested = node(0, NodeStatus.REQUESTED)
    assert plan(world(requested, running=False, busy=frozenset({requested.id}))) == []


def test_surplus_drains_those_that_do_not_serve_first_then_the_highest_slot() -> None:
    nodes = [node(0), node(1), node(2, NodeStatus.STARTING)]
    agents = {n.id: AgentView(Tunnel.UP, 1, NOW) for n in nodes[:2]}
    drained = [step for step in plan(world(*nodes, desired=1, agents=agents)) if isinstance(step, Advance)]
    assert [(step.node.slot, step.to, step.reason) for step in drained] == [
        ("jp-2", NodeStatus.DRAINING, ""),
        ("jp-1", NodeStatus.DRAINING, ""),
    ]


def test_nodes_of_a_country_without_a_pool_are_surplus() -> None:
    step = only(plan(world(node(0), pools={})))
    assert isinstance(step, Advance)
    assert step.to is NodeStatus.DRAINING


def test_requested_is_created_only_while_it_holds_its_slot() -> None:
    wished = node(0, NodeStatus.REQUESTED)
    assert only(plan(world(wished, running=False))) == Create(wished)
    lost = only(plan(world(wished, running=False, claims={"jp-0": "jp00000f"})))
    assert isinstance(lost, Advance)
    assert (lost.to, lost.reason) == (NodeStatus.FAILED, "its slot was taken by another node")


def test_requested_with_a_created_container_is_carried_on() -> None:
    wished = node(0, NodeStatus.REQUESTED)
    assert only(plan(world(wished, containers=(container(wished, "created"),)))) == Create(wished)


@pytest.mark.parametrize(
    ("tunnel", "age", "expected"),
    [
        (Tunnel.UP, 1, NodeStatus.VERIFYING),
        (Tunnel.STARTING, 29, None),
        (Tunnel.STARTING, 30, NodeStatus.DRAINING),
        (Tunnel.DOWN, 31, NodeStatus.DRAINING),
    ],
)
def test_starting_waits_for_the_tunnel_thirty_seconds(tunnel: Tunnel, age: float, expected: NodeStatus | None) -> None:
    begun = node(0, NodeStatus.STARTING)
    agents = {begun.id: AgentView(tunnel, 1, NOW, "no handshake")}
    steps = plan(world(begun, agents=agents, since={begun.id: NOW - age}))
    assert [step.to for step in steps if isinstance(step, Advance)] == ([expected] if expected else [])
    if expected is NodeStatus.DRAINING:
        assert "no handshake" in steps[0].reason  # type: ignore[union-attr]


def verifying(verdict: Verdict | None, age: float = 1.0) -> list[Step]:
    asked = node(0, NodeStatus.VERIFYING)
    verdicts = {asked.id: verdict} if verdict else {}
    return plan(world(asked, verdicts=verdicts, since={asked.id: NOW - age}))


def test_verifying_asks_the_gate_and_asks_again_after_a_second() -> None:
    unproved = Verdict(Outcome.UNPROVED, 1, "timed out", at=NOW - 0.5)
    assert isinstance(only(verifying(None)), Verify)
    assert verifying(unproved) == []
    assert isinstance(only(verifying(dataclasses.replace(unproved, at=NOW - 1))), Verify)


def test_a_gate_that_fails_at_once_is_not_asked_in_a_circle() -> None:
    # A verdict about no tunnel at all (generation 0) is as good a reason to wait.
    assert verifying(Verdict(Outcome.UNPROVED, 0, "agent is gone", at=NOW)) == []


def test_admitted_serves_with_what_was_learnt() -> None:
    step = only(verifying(PASSED))
    assert isinstance(step, Advance)
    assert (step.to, step.verdict) == (NodeStatus.SERVING, PASSED)


def test_a_verdict_about_an_older_tunnel_admits_nobody() -> None:
    assert isinstance(only(verifying(dataclasses.replace(PASSED, generation=0, at=NOW - 9))), Verify)


@pytest.mark.parametrize(
    ("verdict", "age", "words"),
    [
        (Verdict(Outcome.REFUTED, 1, "its exit is in us", at=NOW), 1, "its exit is in us"),
        (Verdict(Outcome.UNPROVED, 1, "no answer", at=NOW), 30, "not admitted within 30 s: no answer"),
    ],
)
def test_not_admitted_drains_at_once_and_ends_failed(verdict: Verdict, age: float, words: str) -> None:
    step = only(verifying(verdict, age))
    assert isinstance(step, Advance)
    assert (step.to, step.reason) == (NodeStatus.DRAINING, words)
    leaving = node(0, NodeStatus.DRAINING, exit_ip="", reason=words)
    assert isinstance(only(plan(world(leaving))), Stop)
    ended = only(plan(world(leaving, containers=(container(leaving, "exited"),))))
    assert isinstance(ended, Advance)
    assert (ended.to, ended.reason) == (NodeStatus.FAILED, words)


def serving(verdict: Verdict | None, agent: AgentView | None = None, **fields: Any) -> list[Step]:
    good = node(0, **fields)
    agents = {good.id: agent or AgentView(Tunnel.UP, 1, NOW - 100)}
    return plan(world(good, verdicts={good.id: verdict} if verdict else {}, agents=agents))


def test_serving_is_verified_every_minute_and_after_a_restart_of_control() -> None:
    assert serving(dataclasses.replace(PASSED, at=NOW - 59)) == []
    assert isinstance(only(serving(dataclasses.replace(PASSED, at=NOW - 60))), Verify)
    assert isinstance(only(serving(None)), Verify)


def test_a_new_tunnel_is_verified_at_once_and_what_was_learnt_is_recorded() -> None:
    agent = AgentView(Tunnel.UP, 2, NOW - 1)
    assert isinstance(only(serving(dataclasses.replace(PASSED, at=NOW - 1), agent)), Verify)
    renewed = dataclasses.replace(PASSED, generation=2, exit_ip="203.0.113.9")
    step = only(serving(renewed, agent))
    assert isinstance(step, Advance)
    assert (step.to, step.verdict) == (NodeStatus.SERVING, renewed)


def test_a_new_tunnel_that_cannot_be_proved_is_given_twenty_seconds() -> None:
    unproved = Verdict(Outcome.UNPROVED, 2, "no answer", at=NOW - 1)
    assert isinstance(only(serving(unproved, AgentView(Tunnel.UP, 2, NOW - 20))), Verify)
    step = only(serving(unproved, AgentView(Tunnel.UP, 2, NOW - 21)))
    assert isinstance(step, Advance)
    assert (step.to, step.reason) == (NodeStatus.DRAINING, "not admitted after its tunnel came back: no answer")


def test_a_proved_tunnel_survives_a_gate_that_finds_nothing_out() -> None:
    unproved = Verdict(Outcome.UNPROVED, 1, "insights is down", at=NOW - 9)
    assert serving(unproved) == []
    assert isinstance(only(serving(dataclasses.replace(unproved, at=NOW - 10))), Verify)


def test_refuted_while_serving_is_taken_out() -> None:
    refuted = Verdict(Outcome.REFUTED, 1, "in us", "203.0.113.7", "us", at=NOW)
    step = only(serving(refuted))
    assert isinstance(step, Advance)
    assert (step.to, step.reason, step.verdict) == (NodeStatus.DRAINING, "in us", refuted)


def test_a_tunnel_down_for_more_than_twenty_seconds_is_replaced() -> None:
    step, _ = serving(PASSED, AgentView(Tunnel.DOWN, 1, NOW - 20.1, "no handshake"))
    assert isinstance(step, Advance)
    assert step.to is NodeStatus.DRAINING
    assert "no handshake" in step.reason


def test_the_successor_of_a_tunnel_that_may_not_come_back_starts_after_half_that_time() -> None:
    assert serving(PASSED, AgentView(Tunnel.DOWN, 1, NOW - 10)) == []
    assert serving(PASSED, AgentView(Tunnel.DOWN, 1, NOW - 10.1)) == [Place("jp-1", "jp", "")]
    # It came back before the successor served: the successor is one too many.
    beside = [node(0), node(1, NodeStatus.STARTING)]
    back = plan(world(*beside, agents={beside[0].id: AgentView(Tunnel.UP, 1, NOW - 100)}))
    assert [(step.node.slot, step.to) for step in back if isinstance(step, Advance)] == [("jp-1", NodeStatus.DRAINING)]
    # It did not: once the successor has taken over, it goes.
    both = [node(0), node(1)]
    agents = {both[0].id: AgentView(Tunnel.DOWN, 1, NOW - 11, "no handshake"), both[1].id: AgentView(Tunnel.UP, 1, NOW)}
    assert plan(world(*both, agents=agents, since={both[1].id: NOW - 1})) == []
    step = only(plan(world(*both, agents=agents, since={both[1].id: NOW - 2})))
    assert isinstance(step, Advance)
    assert (step.node, step.reason) == (both[0], "its tunnel is down and a successor serves: no handshake")


def test_draining_waits_for_its_deadline_while_its_tunnel_carries() -> None:
    leaving = node(0, NodeStatus.DRAINING)
    assert plan(world(leaving, desired=0, since={leaving.id: NOW - 29})) == []
    assert isinstance(only(plan(world(leaving, desired=0, since={leaving.id: NOW - 30}))), Stop)
    down = {leaving.id: AgentView(Tunnel.DOWN, 1, NOW - 21)}
    assert isinstance(only(plan(world(leaving, desired=0, agents=down))), Stop)


def test_a_drained_node_ends_stopped() -> None:
    leaving = node(0, NodeStatus.DRAINING)
    for containers in ((), (container(leaving, "exited"),)):
        step = only(plan(world(leaving, desired=0, containers=containers)))
        assert isinstance(step, Advance)
        assert step.to is NodeStatus.STOPPED


def test_the_successor_of_a_draining_node_starts_beside_it_in_another_slot() -> None:
    assert plan(world(node(0, NodeStatus.DRAINING))) == [Place("jp-1", "jp", "")]


def test_no_more_than_one_successor_starts_beside_those_that_drain() -> None:
    leaving = [node(number, NodeStatus.DRAINING) for number in range(3)]
    assert plan(world(*leaving, desired=3)) == [Place("jp-3", "jp", "")]


def test_the_successor_of_a_dying_node_waits_until_it_ended() -> None:
    dying = node(0, NodeStatus.DRAINING, exit_ip="", reason="x")
    assert [type(step) for step in plan(world(dying))] == [Stop]


@pytest.mark.parametrize("status", ACTIVE)
def test_a_container_that_died_fails_its_node_with_its_last_words(status: NodeStatus) -> None:
    dead = node(0, status)
    step = only(plan(world(dead, containers=(container(dead, "exited"),))))
    assert isinstance(step, Advance)
    assert step.to is NodeStatus.FAILED
    assert step.container is not None


@pytest.mark.parametrize("status", [NodeStatus.STARTING, NodeStatus.VERIFYING, NodeStatus.SERVING])
def test_a_container_that_was_removed_fails_its_node(status: NodeStatus) -> None:
    step = only(plan(world(node(0, status), running=False)))
    assert isinstance(step, Advance)
    assert (step.to, step.reason) == (NodeStatus.FAILED, "its container was removed")


def test_an_ended_node_loses_its_container_then_after_ten_minutes_its_record() -> None:
    ended = node(0, NodeStatus.FAILED)
    exited, running = container(ended, "exited"), container(ended)
    assert Remove(ended.id, exited) in plan(world(ended, containers=(exited,)))
    assert plan(world(ended, containers=(running,))) == [Stop(ended, running)]
    assert plan(world(ended, desired=0, since={ended.id: NOW - 599})) == []
    assert plan(world(ended, desired=0, since={ended.id: NOW - 600})) == [Forget(ended)]


def test_containers_without_a_record_are_removed() -> None:
    stray = container(node(7))
    assert plan(world(desired=0, containers=(stray,))) == [RemoveOrphan(stray)]


class Simulation:
    """A small world that does what the plan says, with accidents drawn by hypothesis."""

    def __init__(self) -> None:
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.containers: dict[str, str] = {}
        self.claims: dict[str, str] = {}
        self.up: dict[str, tuple[Tunnel, float]] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.since: dict[str, float] = {}
        self.strays: set[str] = set()
        self.unwell: dict[str, float] = {}
        self.protocol = Protocol.OPENVPN_UDP
        self.rotate: float | None = 0.03
        self.desired = 0
        self.highest = 0
        self.made = 0

    def observe(self) -> World:
        return World(
            now=self.now,
            wall=self.now,
            containers=(
                *(container(self.nodes[i], state) for i, state in self.containers.items()),
                *(container(node(int(i[2:], 16))) for i in self.strays),
            ),
            nodes=dict(self.nodes),
            pools={"jp": Pool(country="jp", desired=self.desired, protocol=self.protocol, rotate_hours=self.rotate)},
            unwell=dict(self.unwell),
            claims=dict(self.claims),
            agents={i: AgentView(tunnel, 1, at) for i, (tunnel, at) in self.up.items()},
            verdicts=dict(self.verdicts),
            since=dict(self.since),
            limits=Limits(
                drain_deadline=5, tunnel_grace=3, start_timeout=10, keep_ended=20, unwell_after=2, unwell_age=8
            ),
        )

    def turn(self, skip: frozenset[int] = frozenset()) -> int:
        world = self.observe()
        steps = plan(world)
        keys = [step.key for step in steps]
        assert len(set(keys)) == len(keys)
        touched = {step.container.id for step in steps if isinstance(step, Stop | Remove | RemoveOrphan)}
        assert touched <= {found.id for found in world.containers}
        serving = sum(n.status is NodeStatus.SERVING and self.up[n.id][0] is Tunnel.UP for n in self.nodes.values())
        planned = [s.node for s in steps if isinstance(s, Advance) and s.to is NodeStatus.DRAINING and not s.verdict]
        carrying = [n for n in planned if n.status is NodeStatus.SERVING and self.up[n.id][0] is Tunnel.UP]
        assert not carrying or serving - len(carrying) >= self.desired, "broken before another was made"
        for number, step in enumerate(steps):
            if number not in skip:
                self.do(step)
        self.check()
        return len(steps)

    def do(self, step: Step) -> None:
        match step:
            case Place():
                assert self.claims.get(step.slot, "") == step.expected
                assert not step.replaces or step.replaces in self.nodes
                made = node(
                    self.made, NodeStatus.REQUESTED, slot=step.slot, replaces=step.replaces, follows=self.protocol
                )
                self.made += 1
                self.claims[step.slot] = made.id
                self.move(made, NodeStatus.REQUESTED)
            case Create():
                self.containers[step.node.id] = "running"
                self.nodes[step.node.id] = step.node.model_copy(update={"started_at": self.now})
                self.up[step.node.id] = (Tunnel.UP, self.now)
                self.move(self.nodes[step.node.id], NodeStatus.STARTING)
            case Advance():
                order = list(NodeStatus)
                assert order.index(step.to) >= order.index(step.node.status)
                ip = step.verdict.exit_ip if step.verdict else step.node.exit_ip
                self.move(step.node.model_copy(update={"exit_ip": ip, "generation": 1, "exit_country": "jp"}), step.to)
                if step.reason:
                    self.nodes[step.node.id] = self.nodes[step.node.id].model_copy(update={"reason": step.reason})
            case Retire():
                assert step.reason
                assert not step.node.retire
                self.nodes[step.node.id] = step.node.model_copy(update={"retire": step.reason})
            case Verify():
                self.verdicts[step.node.id] = dataclasses.replace(PASSED, at=self.now)
            case Stop():
                self.die(step.node.id)
            case Remove():
                del self.containers[step.node_id]
            case Forget():
                del self.nodes[step.node.id]
            case RemoveOrphan():
                self.strays.remove(step.container.node)

    def move(self, old: Node, to: NodeStatus) -> None:
        if self.nodes.get(old.id) is None or old.status is not to:
            self.since[old.id] = self.now
        self.nodes[old.id] = old.model_copy(update={"status": to})

    def die(self, node_id: str) -> None:
        self.containers[node_id] = "exited"
        self.up[node_id] = (Tunnel.DOWN, self.now)

    def check(self) -> None:
        active = [n.slot for n in self.nodes.values() if n.status in ACTIVE]
        assert len(set(active)) == len(active), "two nodes in one slot"
        assert sum(state == "running" for state in self.containers.values()) <= self.highest + EXTRA
        assert all(0 <= slot_index(slot) <= 2 * (self.highest + EXTRA) for slot in active)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["scale", "kill", "black hole", "refute", "vanish", "wait", "retire", "unwell", "protocol", "stray", "age"]
        ),
        st.integers(0, 4),
        st.frozensets(st.integers(0, 5), max_size=3),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), EVENTS, st.integers(0, 4))
def test_from_anywhere_it_converges_without_ever_doubling_a_slot(
    first: int, events: list[tuple[str, int, frozenset[int]]], final: int
) -> None:
    sim = Simulation()
    sim.desired = sim.highest = first
    for _ in range(8):
        sim.turn()
    for what, number, skip in events:
        running = [i for i, state in sim.containers.items() if state == "running"]
        if what == "scale":
            sim.desired = number
            sim.highest = max(sim.highest, number)
        elif what == "wait":
            sim.now += number
        elif what == "age":
            sim.now += 40.0 * number
        elif what == "protocol":
            sim.protocol = list(Protocol)[number % 3]
        elif what == "stray":
            sim.strays.add(f"jp{0xFFFF00 + number:06x}")
        elif running:
            victim = running[number % len(running)]
            if what == "kill":
                sim.die(victim)
            elif what == "black hole":
                sim.up[victim] = (Tunnel.DOWN, sim.now)
            elif what == "retire":
                if sim.nodes[victim].status in ACTIVE and not sim.nodes[victim].retire:
                    sim.nodes[victim] = sim.nodes[victim].model_copy(update={"retire": "asked for"})
            elif what == "unwell":
                sim.unwell[victim] = sim.now
            elif what == "refute":
                abroad = "203.0.113.9" if number % 2 else ""
                sim.verdicts[victim] = Verdict(Outcome.REFUTED, 1, "in us", abroad, "us", at=sim.now)
            else:
                del sim.containers[victim]
        sim.turn(skip)
        sim.now += 0.3
    sim.desired, sim.highest = final, max(sim.highest, final)
    sim.rotate = None
    for _ in range(250):
        sim.turn()
        sim.now += 1.0
    serving_now = [n for n in sim.nodes.values() if n.status is NodeStatus.SERVING]
    assert len(serving_now) == final
    assert set(sim.nodes) == {n.id for n in serving_now}
    assert not final or all(n.follows is sim.protocol and not n.retire for n in serving_now)
    assert not sim.strays
    assert {n.id for n in serving_now} == {i for i, state in sim.containers.items() if state == "running"}


def test_a_draining_node_whose_container_never_ran_ends() -> None:
    there = node(0, NodeStatus.DRAINING, exit_ip="", reason="tunnel not up within 30 s")
    found = plan(world(there, desired=0, containers=(container(there, "created"),)))
    assert found == [Advance(there, NodeStatus.FAILED, there.reason)]
