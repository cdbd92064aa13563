"""Nodes, the slots they hold, and pools."""

import secrets
from collections.abc import Iterable
from typing import cast

from health.model import Node, NodeStatus, Pool
from health.registry import scripts
from health.registry.base import Base, StaleVersionError
from health.registry.keys import EVENTS, PREFIX, SEQUENCE
from health.registry.telling import event, node_event


class Fleet(Base):
    """Nodes, slots and pools."""

    async def put_node(self, node: Node) -> None:
        await self._put("node", "nodes", node.id, node)

    async def delete_node(self, node_id: str) -> None:
        await self._delete("node", "nodes", node_id)

    async def node(self, node_id: str) -> Node | None:
        return (await self._read("node", [node_id], Node)).get(node_id)

    async def recorded(self, node_id: str) -> bool:
        """True as well for a record that a newer writer made, and that nobody here can read."""
        async with self._call():
            return bool(await self._redis.exists(PREFIX + f"node:{node_id}"))

    async def nodes(self) -> dict[str, Node]:
        return await self._read_all("node", "nodes", Node)

    async def advance_node(self, node: Node, expected: NodeStatus) -> bool:
        """Replace the record of `node` if its stored status still is `expected`; False where it moved on or is gone.

        False as well where the stored one was told to retire and `node` does not know it yet.
        """
        async with self._call():
            answer = await self._script(scripts.ADVANCE)(
                keys=[PREFIX + f"node:{node.id}", EVENTS, SEQUENCE],
                args=[expected.value, node.dump(), node_event(node, expected)],
            )
        return bool(answer)

    # slots

    async def claim_slot(self, slot: str, node: Node, expected: str) -> bool:
        """Give `slot` to `node` and store its record, both or neither, if `expected` (a node id, or "" for nobody)
        holds the slot. True as well where `node` holds it already: then its record is left as it is."""
        async with self._call():
            answer = await self._script(scripts.CLAIM)(
                keys=[PREFIX + f"claim:{slot}", PREFIX + f"node:{node.id}", PREFIX + "nodes", EVENTS, SEQUENCE],
                args=[node.id, expected, node.dump(), node_event(node)],
            )
        return bool(answer)

    async def release_slot(self, slot: str, node_id: str) -> None:
        """Free `slot`, if `node_id` still holds it."""
        async with self._call():
            await self._script(scripts.RELEASE)(keys=[PREFIX + f"claim:{slot}"], args=[node_id])

    async def claims(self, slots: Iterable[str]) -> dict[str, str]:
        """Who holds each of `slots`; free ones are left out."""
        names = list(slots)
        if not names:
            return {}
        async with self._call():
            found = cast(list[str | None], await self._redis.mget([PREFIX + f"claim:{name}" for name in names]))
        return {name: holder for name, holder in zip(names, found, strict=True) if holder}

    # pools

    async def retire(self, pool: Pool, node: Node, expected: NodeStatus) -> bool:
        """Store `pool` (as put_pool does) together with `node`, whose stored status must be `expected`.

        False, and nothing stored, where the node moved on or is gone. Raises StaleVersionError.
        """
        stored = pool.model_copy(update={"version": pool.version + 1, "stamp": secrets.token_hex(4)})
        async with self._call():
            answer = await self._script(scripts.RETIRE)(
                keys=[PREFIX + f"pool:{pool.country}", PREFIX + f"node:{node.id}", EVENTS, PREFIX + "pools", SEQUENCE],
                args=[
                    *(pool.version, stored.dump(), expected.value, node.dump()),
                    *(node_event(node, expected), pool.country),
                ],
            )
        if int(answer) < 0:
            raise StaleVersionError(-1 - int(answer))
        return bool(answer)

    async def put_pool(self, pool: Pool) -> Pool:
        """Store `pool` if its `version` is the stored one; returns it with its new version.

        Raises StaleVersionError otherwise.
        """
        stored = pool.model_copy(update={"version": pool.version + 1, "stamp": secrets.token_hex(4)})
        async with self._call():
            answer = await self._script(scripts.PUT_VERSIONED)(
                keys=[PREFIX + f"pool:{pool.country}", PREFIX + "pools", EVENTS, SEQUENCE],
                args=[pool.version, stored.dump(), pool.country, event("pool", pool.country)],
            )
        if int(answer):
            raise StaleVersionError(int(answer) - 1)
        return stored

    async def pool(self, country: str) -> Pool | None:
        return (await self._read("pool", [country], Pool)).get(country)

    async def pools(self) -> dict[str, Pool]:
        return await self._read_all("pool", "pools", Pool)
