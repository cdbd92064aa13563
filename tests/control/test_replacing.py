"""What a successor is asked for."""

from control.providers import Wish
from control.replacing import drained_first, fulfilled, has_room, successor, traits, wish
from health.model import Node, NodeKind, NodeStatus, Pool, Protocol

POOL = Pool(country="jp", desired=1, protocol=Protocol.WIREGUARD)


def node(number: int, **fields: object) -> Node:
    given = {"kind": NodeKind.VPN, "machine": "m", "status": NodeStatus.SERVING, **fields}
    return Node.model_validate({"id": f"jp{number:06x}", "country": "jp", **given})


def test_as_the_pool_says_now_unless_the_node_had_a_wish_of_its_own() -> None:
    assert wish(POOL, None) == Wish("jp", Protocol.WIREGUARD)
    usual = node(1, protocol=Protocol.OPENVPN_UDP, follows=Protocol.OPENVPN_UDP)
    assert wish(POOL, usual) == Wish("jp", Protocol.WIREGUARD)
    assert traits(POOL, usual) == {"follows": Protocol.WIREGUARD, "asked_city": "", "replaces": usual.id}
    special = node(1, protocol=Protocol.OPENVPN_TCP, asked_city="Osaka")
    assert wish(POOL, special) == Wish("jp", Protocol.OPENVPN_TCP, "", "Osaka")
    assert traits(POOL, special) == {"follows": None, "asked_city": "Osaka", "replaces": special.id}
    assert traits(POOL, None) == {"follows": Protocol.WIREGUARD}


def test_only_an_active_one_succeeds() -> None:
    old, dead = node(1), node(2, status=NodeStatus.FAILED, replaces="jp000001")
    heir = node(3, status=NodeStatus.STARTING, replaces="jp000001")
    assert successor([old, dead], old.id) is None
    assert successor([old, dead, heir], old.id) is heir


def test_one_more_than_desired_may_run() -> None:
    assert has_room([node(1), node(2, status=NodeStatus.STOPPED)], POOL)
    assert not has_room([node(1), node(2, status=NodeStatus.DRAINING)], POOL)


def test_one_that_drains_first_says_why_and_for_what() -> None:
    leaving = drained_first(node(1, retire="asked for"), "acct 10/10", 5.0)
    assert (leaving.status, leaving.changed_at) == (NodeStatus.DRAINING, 5.0)
    assert leaving.reason == "drained before its successor starts (acct 10/10): asked for"


def test_a_pool_is_fulfilled_by_those_that_serve_and_are_not_to_be_replaced() -> None:
    pool = Pool(country="jp", desired=1)
    assert fulfilled(pool, [node(1)])
    assert fulfilled(Pool(country="jp"), [])
    assert not fulfilled(pool, [node(1, retire="asked for"), node(2, status=NodeStatus.STARTING)])
