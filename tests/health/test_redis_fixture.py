"""The Redis fixtures themselves: others build on them."""

from typing import Any

import pytest


@pytest.mark.parametrize("round_", [1, 2])
def test_shared_server_is_empty_each_time(redis_url: str, shared_redis: Any, round_: int) -> None:
    assert redis_url == shared_redis.url
    assert shared_redis.command("DBSIZE") == ":0"
    assert shared_redis.command("SET", "left", str(round_)) == "+OK"


def test_own_server_stops_and_starts_again_empty(redis_server: Any) -> None:
    redis_server.command("SET", "a", "b")
    redis_server.stop()
    assert not redis_server.running
    with pytest.raises(OSError, match=r"No such file|refused"):
        redis_server.command("PING")
    redis_server.start()
    assert redis_server.command("DBSIZE") == ":0"


def test_paused_server_accepts_and_stays_silent(redis_server: Any) -> None:
    redis_server.pause()
    with pytest.raises(TimeoutError):
        redis_server.command("PING", timeout=0.2)
    redis_server.resume()
    assert redis_server.command("PING") == "+PONG"
