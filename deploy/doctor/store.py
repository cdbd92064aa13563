"""Redis: does it answer, is it new enough, does it keep what it is given, and does it never drop a record by itself?"""

import asyncio
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from deploy import redis_binary
from deploy.doctor.model import Finding, failed, ok, warning
from health.config import RedisSettings
from health.registry import Registry, RegistryError

CROWDED = 0.9


@dataclass(frozen=True, slots=True)
class Seen:
    """`fault` says why Redis could not be asked; `info` is what INFO and CONFIG GET save said."""

    place: str
    fault: str = ""
    info: Mapping[str, str] = field(default_factory=dict)
    private: bool = False
    """`vpnexit up` runs it for itself, and keeps nothing in it on purpose."""


def look(settings: RedisSettings, private: bool = False) -> Seen:
    return asyncio.run(_look(settings, private))


async def _look(settings: RedisSettings, private: bool) -> Seen:
    place = settings.place
    try:
        registry = Registry.open(settings)
    except ValueError as error:
        return Seen(place, fault=str(error), private=private)
    try:
        return Seen(place, info=await registry.server(), private=private)
    except RegistryError as error:
        return Seen(place, fault=_why(error), private=private)
    finally:
        await registry.close()


def judge(seen: Seen) -> Iterator[Finding]:
    if seen.fault:
        yield failed(
            "redis",
            f"{seen.place} does not answer: {seen.fault}",
            "Gateways go on with what they know; nothing can be started, changed or scored.",
            "`systemctl start redis-server`; or name the right address (redis.url; or redis.sentinels, redis.master) "
            "and user (redis.username, redis.password)",
        )
        return
    yield _server(seen)
    yield _memory(seen.info)
    yield _persistence(seen)


def _why(error: BaseException) -> str:
    """The system's own words where there are any: those of the library repeat the address."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error).removeprefix("Redis: ")


def _server(seen: Seen) -> Finding:
    version = seen.info.get("redis_version", "")
    found = re.match(r"(\d+)\.(\d+)", version)
    oldest = ".".join(map(str, redis_binary.OLDEST))
    if found is not None and (int(found[1]), int(found[2])) < redis_binary.OLDEST:
        return failed(
            "redis",
            f"version {version} is older than {oldest}",
            "Commands are missing that the fleet's records need.",
            f"install Redis {oldest} or newer, for example with `apt install redis-server`",
        )
    if seen.info.get("role", "master") != "master":
        return failed(
            "redis",
            f"{seen.place} is a replica: it takes no writes",
            "Nothing can be started, changed or scored.",
            "name the master in redis.url, or `redis-cli REPLICAOF NO ONE` where it shall be the master",
        )
    return ok("redis", f"version {version} at {seen.place}")


def _memory(info: Mapping[str, str]) -> Finding:
    policy, most, used = (
        info.get("maxmemory_policy", "noeviction"),
        _number(info, "maxmemory"),
        _number(info, "used_memory"),
    )
    if policy != "noeviction":
        result = failed if most else warning
        return result(
            "redis memory",
            f"maxmemory-policy is {policy}" + ("" if most else ", without effect while maxmemory is 0"),
            "When memory is short Redis throws records of nodes, users and leases away.",
            "redis-cli CONFIG SET maxmemory-policy noeviction; redis-cli CONFIG REWRITE",
        )
    if most and used > CROWDED * most:
        return warning(
            "redis memory",
            f"{used:,} of {most:,} bytes in use",
            "When it is full Redis refuses writes: nothing can be started or changed.",
            f"redis-cli CONFIG SET maxmemory {2 * most}; redis-cli CONFIG REWRITE",
        )
    return ok("redis memory", "no record is dropped for want of memory")


def _persistence(seen: Seen) -> Finding:
    name, info = "redis persistence", seen.info
    for key, what in (
        ("rdb_last_bgsave_status", "snapshot"),
        ("aof_last_write_status", "write of the append-only file"),
    ):
        if info.get(key, "ok") != "ok":
            return failed(
                name,
                f"the last {what} failed",
                "Redis then refuses writes: nothing can be started or changed.",
                "look into Redis's log, and make room or set the rights of its directory (`redis-cli CONFIG GET dir`)",
            )
    if seen.private:
        return ok(name, "none, as `vpnexit up` wants it")
    if _number(info, "aof_enabled"):
        return ok(name, "append-only file")
    if info.get("save", "unknown"):
        return ok(name, f"snapshots ({info['save']})" if "save" in info else "not seen: CONFIG is closed")
    return warning(
        name,
        "nothing is kept on disk",
        "After a restart of Redis control restores pools and users from its own copy, but what users moved this month, "
        "and their sessions, are gone.",
        "redis-cli CONFIG SET appendonly yes; redis-cli CONFIG REWRITE",
    )


def _number(info: Mapping[str, str], name: str) -> int:
    text = info.get(name, "0")
    return int(text) if text.isdigit() else 0
