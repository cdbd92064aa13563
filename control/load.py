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
MAX_ANSWER = 4 * 1024 * 1024
WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Carried:
    """Connections by node, and why some gateway was not heard (empty: all were)."""

    by_node: Mapping[str, int] = field(default_factory=dict)
    trouble: str = ""


def bearer(token: str) -> dict[str, str]:
    """The fields that prove `token` (RFC 6750); none where it is empty."""
    return {"Authorization": f"Bearer {token}"} if token else {}


async def carried(gateways: Sequence[str], token: str = "") -> Carried:
    """What all `gateways` (host:port of their metrics) carry now. Takes 2 s at most, never raises."""
    limit = aiohttp.ClientTimeout(total=WITHIN_S)
    async with aiohttp.ClientSession(timeout=limit, headers=bearer(token)) as session:
        answers = await asyncio.gather(*(_ask(session, address) for address in gateways))
    total: Counter[str] = Counter()
    troubles = [answer for answer in answers if isinstance(answer, str)]
    for answer in answers:
        if not isinstance(answer, str):
            total.update(answer)
    return Carried(dict(total), "; ".join(troubles))


async def _ask(session: aiohttp.ClientSession, address: str) -> dict[str, int] | str:
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


def parse(text: str) -> dict[str, int]:
    """Connections by node from Prometheus' text format. Raises ValueError where nothing is said about them."""
    for family in text_string_to_metric_families(text):
        if family.name == METRIC:
            return {sample.labels["node"]: int(sample.value) for sample in family.samples if "node" in sample.labels}
    raise ValueError(METRIC)
