"""How Redis is reached: a pool of connections by the settings."""

import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from health.config import RedisSettings


def client(settings: RedisSettings) -> "aioredis.Redis":
    """A client that gives an answer `settings.timeout` seconds and tries once more; it sends nothing yet."""
    return aioredis.Redis.from_url(
        settings.url,
        password=settings.password.get_secret_value() if settings.password else None,
        protocol=2,  # all we need; RESP3 costs a greeting and maintenance notifications per connection
        decode_responses=True,
        encoding_errors="replace",
        socket_timeout=settings.timeout,
        socket_connect_timeout=settings.timeout,
        retry=Retry(NoBackoff(), 1),
    )
