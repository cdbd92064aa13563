"""One of two exits becomes half a second slower: it loses its share of the connections, and has it again once well."""

import asyncio
import contextlib
import time

from tests.lab.harness import Lab, Traffic, impaired, traffic

PORT = 51820
DELAY_S = 0.5


def share(seen: Traffic, address: str, first: float, last: float) -> float:
    """Of the requests that began between two moments and were answered, those that left by `address`."""
    bodies = [body.strip() for began, _, status, body in seen.answers if status == 200 and first <= began < last]
    assert len(bodies) >= 8, f"only {len(bodies)} requests"
    return bodies.count(address) / len(bodies)


async def test_a_slow_node_loses_half_of_its_share_within_5_s_and_returns_within_30_s(lab: Lab) -> None:
    slow, _ = lab.nodes("jp")
    told = lab.api("GET", f"/api/nodes/{slow}")
    server, address = told["vpn_server"].partition(".")[0], told["exit_ip"]
    assert len({lab.api("GET", f"/api/nodes/{node}")["exit_ip"] for node in lab.nodes("jp")}) == 2
    async with traffic(lab, "jp", clients=8) as seen:
        async with asyncio.timeout(60):  # a node that has just come back gets its share by and by
            await asyncio.sleep(8)
            while not 0.3 < share(seen, address, time.monotonic() - 8, time.monotonic()) < 0.7:
                await asyncio.sleep(1)
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            await asyncio.to_thread(stack.enter_context, impaired(lab, server, PORT, delay=DELAY_S))
            impaired_at = time.monotonic()
            await asyncio.sleep(15)
            score = lab.api("GET", f"/api/nodes/{slow}/score")
            await asyncio.to_thread(stack.close)
        well_at = time.monotonic()
        await asyncio.sleep(35)
    assert seen.bad() == []
    shares = {
        "before": share(seen, address, began - 8, began),
        "after 5 s": share(seen, address, impaired_at + 5, well_at),
        "after 30 s": share(seen, address, well_at + 30, well_at + 35),
    }
    print(f"{slow}: {shares}; {score['score']} {score['terms']}")
    for second in range(-5, int(well_at - impaired_at) + 35, 5):
        moment = impaired_at + second
        with contextlib.suppress(AssertionError):
            print(f"{second:4d} s: {share(seen, address, moment, moment + 5):.2f}")
    assert 0.3 < shares["before"] < 0.7
    assert shares["after 5 s"] < shares["before"] / 2
    assert shares["after 30 s"] > 0.3
    assert score["score"] < 50
    assert score["explained"]["latency"]["input"] > DELAY_S * 1000
