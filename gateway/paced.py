"""Writes no faster than a user's bandwidth lets pass; plain HTTP bodies go this way, tunnels by the relay's own."""

import asyncio
import time

from gateway.bucket import Bucket
from gateway.channel import Channel


async def write_paced(channel: Channel, data: bytes, bucket: Bucket | None) -> None:
    """Write all of `data`, as `bucket` lets it pass; None is no limit. Raises OSError (AbortedError included)."""
    if bucket is None:
        await channel.write(data)
        return
    while data:
        if taken := bucket.take(len(data), time.monotonic()):
            await channel.write(data[:taken])
            data = data[taken:]
        else:
            await asyncio.sleep(bucket.delay(time.monotonic()))
