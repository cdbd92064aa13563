"""Whose turn it is."""

from dataclasses import replace

from control.model import World
from control.rotation import JITTER, due, mismatch
from health.model import Node, NodeKind, NodeStatus, Pool

HOURS = 3600.0
POOL = Pool(country="jp", rotate_hours=2)


def node(number: int, **fields: object) -> Node:
    given = {"kind": NodeKind.VPN, "machine": "m", "status": NodeStatus.SERVING, "started_at": 0.0, **fields}
    return Node.model_validate({"id": f"jp{number:06x}", "country": "jp", **given})


def test_nodes_that_started_together_do_not_end_together() -> None:
    early, late = node(0), node(0xFFFFFF)
    for wall, expected in ((2 * HOURS - 1, None), (2 * HOURS, early), (2 * HOURS * (1 + JITTER) - 1, early)):
        found = due(World(0, wall=wall), POOL, [early, late])
        assert (found and found[0]) == expected
    assert due(World(0, wall=2 * HOURS * (1 + JITTER) - 1), POOL, [late]) is None
    assert due(World(0, wall=2 * HOURS * (1 + JITTER)), POOL, [late]) is not None


def test_nobody_while_one_does_not_serve_or_nothing_is_wished() -> None:
    world = World(0, wall=100 * HOURS)
    assert due(world, POOL, [node(0), node(1, status=NodeStatus.VERIFYING)]) is None
    assert due(world, Pool(country="jp"), [node(0)]) is None
    assert due(world, POOL, [node(0, started_at=None)]) is None
    assert due(world, POOL, []) is None


def test_the_unwell_go_before_the_old_and_the_longest_unwell_first() -> None:
    world = World(
        1000, wall=100 * HOURS, since={"jp000001": 0, "jp000002": 0}, unwell={"jp000001": 900, "jp000002": 800}
    )
    found = due(world, POOL, [node(0), node(1), node(2)])
    assert found is not None
    assert (found[0].id, found[1]) == ("jp000002", "unwell for 60 s: its score says why")
    found = due(replace(world, ailments={"jp000002": "90% of its probes are lost"}), POOL, [node(1), node(2)])
    assert found is not None
    assert found[1] == "unwell for 60 s: 90% of its probes are lost"


def test_a_record_that_does_not_say_matches() -> None:
    assert mismatch(World(0), POOL, node(0)) == ""
    assert mismatch(World(0, moved={"jp000000": "moved"}), POOL, node(0)) == "moved"
