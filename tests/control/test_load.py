"""What several gateways carry together, read from real HTTP listeners."""

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from control.load import MAX_ANSWER, WITHIN_S, carried, parse
from gateway.exposition import exposition
from gateway.metrics import Metrics
from gateway.resources import listening_socket
from health.monitor import Monitor

Serve = Callable[[bytes], Awaitable[str]]


def shown(**nodes: int) -> bytes:
    return exposition(Metrics().counters(), {}, 0, nodes)


@pytest.fixture
async def gateway(request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Starts a gateway's own metrics listener that shows some bytes; gives its address."""
    monitors: list[Monitor] = []

    async def start(text: bytes) -> str:
        async def show() -> bytes:
            return text

        monitor = Monitor(lambda: True, show, listening_socket, getattr(request, "param", ""))
        monitors.append(monitor)
        await monitor.listen("127.0.0.1:0")
        assert monitor._server is not None
        return f"127.0.0.1:{monitor._server.sockets[0].getsockname()[1]}"

    yield start
    for monitor in monitors:
        monitor.close()


async def test_several_gateways_are_added_up(gateway: Serve) -> None:
    one, two = await gateway(shown(jp000001=3, jp000002=1)), await gateway(shown(jp000001=4))
    found = await carried([one, two])
    assert (dict(found.by_node), found.trouble) == ({"jp000001": 7, "jp000002": 1}, "")


@pytest.mark.parametrize("gateway", ["s3cret-token"], indirect=True)
async def test_gateways_that_take_a_token_get_it(gateway: Serve) -> None:
    address = await gateway(shown(jp000001=3))
    assert (await carried([address], "s3cret-token")).by_node == {"jp000001": 3}
    assert "401" in (await carried([address])).trouble


async def test_one_that_is_gone_silent_or_talks_nonsense_is_named_and_the_others_count(gateway: Serve) -> None:
    good = await gateway(shown(jp000001=3))
    nonsense = await gateway(b"<html>what?</html>")
    endless = await gateway(b"#" * (MAX_ANSWER + 1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        found = await carried([good, nonsense, endless, address, "127.0.0.1:1"])
        assert time.monotonic() - began < WITHIN_S * 2
    assert dict(found.by_node) == {"jp000001": 3}
    for words in (
        f"{nonsense} gives no numbers",
        f"{endless} says more than",
        f"{address} did not answer within 2 s",
        "127.0.0.1:1 is not reached",
    ):
        assert words in found.trouble


async def test_where_no_gateway_is_named_nothing_is_known() -> None:
    found = await carried([])
    assert (dict(found.by_node), found.trouble) == ({}, "control.gateways names no gateway")


async def test_the_oldest_picture_of_the_fleet_counts(gateway: Serve) -> None:
    one = await gateway(exposition(Metrics().counters(), {"snapshot_age_seconds": 0.5}, 0, {}))
    two = await gateway(exposition(Metrics().counters(), {"snapshot_age_seconds": float("inf")}, 0, {}))
    assert (await carried([one])).age == 0.5
    assert (await carried([one, two])).age == float("inf")


def test_a_gateway_without_nodes_is_no_trouble_and_one_that_does_not_say_is() -> None:
    assert parse(shown().decode()).by_node == {}
    with pytest.raises(ValueError, match="node_connections"):
        parse("# TYPE other gauge\nother 1\n")
