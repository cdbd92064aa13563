"""How many connections gateways carry through each node, read from their own `/metrics`.

The plainest that works with several gateways: each says what it carries, control adds it up. Nothing is kept in Redis.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

METRIC = "vpnexit_gateway_node_connections"
AGE = "vpnexit_gateway_snapshot_age_seconds"
MAX_ANSWER = 4 * 1024 * 1024
WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Carried:
    """Connections by node, and why some gateway was not heard (empty: all were).

    `age`: how old the oldest picture of the fleet is that one of those that were heard goes by, in seconds.
    """

    by_node: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""
    age: float = 0.0


def bearer(token: str) -> dict[str, str]:
    """The fields that prove `token` (RFC 6750); none where it is empty."""
    return {"Authorization": f"Bearer {token}"} if token else {}


async def carried(gateways: Sequence[str], token: str = "") -> Carried:
    """What all `gateways` (host:port of their metrics) carry now. Takes 2 s at most, never raises."""
    if not gateways:
        return Carried(trouble="control.gateways names no gateway")
    limit = aiohttp.ClientTimeout(total=WITHIN_S)
    async with aiohttp.ClientSession(timeout=limit, headers=bearer(token)) as session:
        answers = await asyncio.gather(*(_ask(session, address) for address in gateways))
    total: Counter[str] = Counter()
    heard = [answer for answer in answers if isinstance(answer, Carried)]
    for one in heard:
        total.update(one.by_node)
    troubles = [answer for answer in answers if isinstance(answer, str)]
    return Carried(dict(total), "; ".join(troubles), max((one.age for one in heard), default=0.0))


async def _ask(session: aiohttp.ClientSession, address: str) -> Carried | str:
    try:
        async with session.get(f"http://{address}/metrics") as answer:
            answer.raise_for_status()
            body = b""
            async for chunk in answer.content.iter_chunked(65536):
                body += chunk
                if len(body) > MAX_ANSWER:
                    return f"gateway {address} says more than {MAX_ANSWER} bytes"
        return parse(body.decode(errors="replace"))
    except TimeoutError:
        return f"gateway {address} did not answer within {WITHIN_S:g} s"
    except (aiohttp.ClientError, OSError) as error:
        return f"gateway {address} is not reached: {str(error)[:200] or type(error).__name__}"
    except ValueError:
        return f"gateway {address} gives no numbers that are understood"


def parse(text: str) -> Carried:
    """What one gateway says in Prometheus' text format. Raises ValueError where it says nothing of its connections."""
    families = {family.name: family.samples for family in text_string_to_metric_families(text)}
    if METRIC not in families:
        raise ValueError(METRIC)
    by_node = {one.labels["node"]: int(one.value) for one in families[METRIC] if "node" in one.labels}
    return Carried(by_node, age=max((one.value for one in families.get(AGE, ())), default=0.0))
