"""The copy of the fleet on disk, and what is restored from it."""

import stat
from pathlib import Path

import pytest

from control.model import Container
from control.nodefiles import NodeFiles
from control.recovery import Copy, Keeper, adopted, copy_of, rebuild, restored
from health.model import Node, NodeKind, NodeStatus, Pool, User
from health.registry import Registry, Snapshot


def node(number: int, status: NodeStatus = NodeStatus.SERVING, kind: NodeKind = NodeKind.VPN) -> Node:
    return Node(id=f"jp{number:06x}", country="jp", kind=kind, machine="m", status=status, slot=f"jp-{number}")


def container(number: int, state: str = "running") -> Container:
    return Container(f"c{number}", f"vpnexit-jp{number:06x}", f"jp{number:06x}", "jp", f"jp-{number}", state)


def snapshot(*nodes: Node) -> Snapshot:
    pool, user = Pool(country="jp", desired=1), User(name="alice", password_hash="hash")
    return Snapshot("e", {n.id: n for n in nodes}, {}, {"jp": pool}, {"alice": user})


async def test_it_is_written_when_it_changed_and_read_back(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "state")
    assert await keeper.load() == (Copy(), "there is no copy of an earlier one on disk")
    assert await keeper.keep(snapshot(node(1))) == ""
    path = tmp_path / "state" / "fleet.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert await Keeper(tmp_path / "state").load() == (copy_of(snapshot(node(1))), "")
    path.unlink()
    await keeper.keep(snapshot(node(1)))
    assert not path.exists()
    await keeper.keep(snapshot(node(1), node(2)))
    assert len((await keeper.load())[0].nodes) == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["fleet.json"]


def test_neither_ended_nor_configured_nodes_are_kept() -> None:
    kept = copy_of(snapshot(node(1), node(2, NodeStatus.FAILED), node(3, kind=NodeKind.DIRECT)))
    assert [n.id for n in kept.nodes] == ["jp000001"]
    assert [user.name for user in kept.users] == ["alice"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '{"schema": 1, "nodes": [{}]}'])
async def test_a_copy_that_is_not_understood_is_no_copy_and_is_put_aside(tmp_path: Path, text: str) -> None:
    (tmp_path / "fleet.json").write_text(text)
    copy, why = await Keeper(tmp_path).load()
    assert copy == Copy()
    assert "is not understood and was put aside" in why
    assert (tmp_path / "fleet.json.unread").read_text() == text


async def test_a_disk_that_takes_nothing_ends_nobody(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    keeper = Keeper(tmp_path / "state")
    for _ in range(2):
        assert "an older one stands: " in await keeper.keep(snapshot())
    assert "cannot be read" in (await keeper.load())[1]


def test_only_nodes_with_a_container_come_back() -> None:
    copy = copy_of(snapshot(node(1), node(2)))
    strange = [container(3), container(4, "exited")]
    found = restored(copy, [container(1), *strange], lambda c: node(3) if c.node == "jp000003" else None)
    assert [n.id for n in found] == ["jp000001", "jp000003"]


@pytest.mark.parametrize("told", ["", "{}", '{"node": "jp000002"}', '{"node": "jp000001", "protocol": "pptp"}'])
def test_a_container_whose_files_are_gone_is_not_adopted(tmp_path: Path, told: str) -> None:
    files = NodeFiles(tmp_path)
    files.config_dir("jp000001").mkdir(parents=True)
    (files.config_dir("jp000001") / "node.json").write_text(told)
    assert adopted(container(1), "m", "nordvpn", files, 1.0) is None


async def test_more_containers_than_a_pool_may_wish_for_are_restored_all_the_same(registry: Registry) -> None:
    told = await rebuild(registry, Copy(), [container(n) for n in range(12)], lambda c: node(int(c.node[2:], 16)))
    assert "12 nodes, 1 pools" in told
    assert await registry.epoch()
    assert {pool.desired for pool in (await registry.pools()).values()} == {10}
