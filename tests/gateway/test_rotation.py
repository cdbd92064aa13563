"""A node gives way under load, step by step as control does it: nobody is refused, nothing is cut."""

import asyncio
from collections.abc import Callable

from control.model import Limits
from health.model import NodeStatus
from health.registry import Registry
from tests.gateway.harness import Exit, Gateway, serve
from tests.gateway.test_supervisor import Load, tunnel, until, up

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]


async def test_a_rotation_refuses_nobody_and_cuts_nothing(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, old, heir = gateways(workers=2), exits("jp000001"), exits("jp000002")
    await up(registry, gateway, old)
    with tunnel(gateway) as first:
        async with Load(gateway) as load:
            await until(lambda: load.good > 50)
            await serve(registry, heir)
            await asyncio.sleep(Limits().hand_over)
            leaving = await registry.node("jp000001")
            assert leaving is not None
            draining = leaving.model_copy(update={"status": NodeStatus.DRAINING})
            assert await registry.advance_node(draining, NodeStatus.SERVING)
            await asyncio.sleep(1.5)  # every worker has read it by then
            done, lines = load.good, len(gateway.lines())
            await until(lambda: load.good > done + 50)
            await until(lambda: len(gateway.lines()) > lines + 32)  # they are written every 100 ms
            new = {line["node"] for line in gateway.lines()[lines + 16 :]}
            first.sendall(b"still here")
            assert first.recv(100) == b"still here"
    assert load.bad == {}
    assert new == {"jp000002"}
