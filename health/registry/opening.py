"""How Redis is reached: by an address, or through sentinels that know which of several is the master now.

Sentinels are asked all at once, the first that knows a master counts: one that is silent costs no time. What they named
is used only once it said itself that it is a master; one that was demoted since answers READONLY and is left.
"""

import asyncio
import ssl
from typing import Any, cast

import redis.asyncio as aioredis
from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from health.config import RedisSettings

Address = tuple[str, int]


class _Tls(SSLConnection):
    """All connections of a client share one context: making one reads every authority anew."""

    def __init__(self, *, tls: ssl.SSLContext, **rest: Any) -> None:
        super().__init__(**rest)
        self.ssl_context.context = tls


class _ToMaster(SentinelManagedConnection):
    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """Sentinels may be behind: what they named is believed once it says so itself."""
        await super().on_connect_check_health(check_health=check_health)
        await self.send_command("ROLE")
        said = await self.read_response()
        if not isinstance(said, list) or said[0] not in ("master", b"master"):
            raise LostError(f"{self.host}:{self.port} is no master")


class _TlsToMaster(_ToMaster, _Tls):
    pass


class _Sentinels(Sentinel):
    async def discover_master(self, service_name: str) -> Address:
        asked = [asyncio.create_task(self._ask(one, service_name)) for one in self.sentinels]
        try:
            for answer in asyncio.as_completed(asked):
                found = await answer
                if found is not None:
                    return found
        finally:
            for task in asked:
                task.cancel()
        raise MasterNotFoundError(f"no sentinel knows a master {service_name!r} that is up")

    async def _ask(self, sentinel: "aioredis.Redis", name: str) -> Address | None:
        try:
            masters = cast(dict[str, dict[str, Any]], await sentinel.sentinel_masters())
        except (RedisError, OSError):
            return None
        state = masters.get(name)
        if not state or not self.check_master_state(state, name):
            return None
        return str(state["ip"]), int(state["port"])


class _Client(aioredis.Redis):
    """Closes its sentinels with itself."""

    def __init__(self, sentinels: Sentinel | None, pool: aioredis.ConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True
        self._sentinels = sentinels

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        if self._sentinels is not None:
            await self._sentinels.aclose()


def client(settings: RedisSettings) -> "aioredis.Redis":
    """A client that gives an answer `settings.timeout` seconds and tries once more; it sends nothing yet.

    Raises ValueError where `settings.tls` does.
    """
    tls = settings.tls()
    how: dict[str, Any] = {
        "protocol": 2,  # all we need; RESP3 costs a greeting and maintenance notifications per connection
        "decode_responses": True,
        "encoding_errors": "replace",
        "socket_timeout": settings.timeout,
        "socket_connect_timeout": settings.timeout,
    } | ({} if tls is None else {"tls": tls})
    where = {name: value for name, value in parse_url(settings.url).items() if name != "connection_class"}
    login = {
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
    }
    mine = how | where | {name: value for name, value in login.items() if value} | {"retry": Retry(NoBackoff(), 1)}
    if settings.sentinels:
        return _through_sentinels(settings, how, mine)
    kind = UnixDomainSocketConnection if "path" in where else Connection if tls is None else _Tls
    return _Client(None, aioredis.ConnectionPool(connection_class=kind, **mine))


def _through_sentinels(settings: RedisSettings, how: dict[str, Any], mine: dict[str, Any]) -> "aioredis.Redis":
    password = settings.sentinel_password
    asking = how | {
        "connection_class": _Tls if "tls" in how else Connection,
        "username": settings.sentinel_username,
        "password": password.get_secret_value() if password else None,
        "retry": Retry(NoBackoff(), 1),
    }
    sentinels = _Sentinels([])  # type: ignore[no-untyped-call]
    for address in settings.sentinels:
        host, _, port = address.rpartition(":")
        pool = aioredis.ConnectionPool(host=host.strip("[]"), port=int(port), **asking)
        sentinels.sentinels.append(aioredis.Redis.from_pool(pool))
    kind = _TlsToMaster if "tls" in how else _ToMaster
    master = cast(str, settings.master)
    pool = SentinelConnectionPool(master, sentinels, connection_class=kind, **mine)  # type: ignore[no-untyped-call]
    return _Client(sentinels, pool)
