"""Redis, as doctor sees a real one that is badly configured."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.doctor import store
from deploy.doctor.model import Finding, Result
from health.config import RedisSettings
from tests.health.registry.servers import MASTER, watched


def examined(url: str, private: bool = False, **settings: Any) -> dict[str, Finding]:
    seen = store.look(RedisSettings(url=url, timeout=5.0, **settings), private)
    return {finding.check: finding for finding in store.judge(seen)}


def test_a_good_one(redis_server: Any) -> None:
    assert redis_server.command("CONFIG", "SET", "appendonly", "yes") == "+OK"
    found = examined(redis_server.url)
    assert {name: finding.result for name, finding in found.items()} == {
        "redis": Result.OK,
        "redis memory": Result.OK,
        "redis persistence": Result.OK,
    }
    assert found["redis"].reason.startswith("version ")


def test_one_that_keeps_nothing(redis_server: Any) -> None:
    finding = examined(redis_server.url)["redis persistence"]
    assert (finding.result, finding.reason) == (Result.WARNING, "nothing is kept on disk")
    assert "appendonly yes" in finding.mend
    assert examined(redis_server.url, private=True)["redis persistence"].result is Result.OK
    assert redis_server.command("CONFIG", "SET", "save", "3600 1") == "+OK"
    assert examined(redis_server.url)["redis persistence"].reason == "snapshots (3600 1)"


def test_one_that_throws_records_away(redis_server: Any) -> None:
    assert redis_server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru") == "+OK"
    assert examined(redis_server.url)["redis memory"].result is Result.WARNING
    assert redis_server.command("CONFIG", "SET", "maxmemory", "100mb") == "+OK"
    finding = examined(redis_server.url)["redis memory"]
    assert (finding.result, finding.reason) == (Result.FAILED, "maxmemory-policy is allkeys-lru")
    assert "CONFIG SET maxmemory-policy noeviction" in finding.mend


def test_one_that_is_full(redis_server: Any) -> None:
    assert redis_server.command("CONFIG", "SET", "maxmemory", "1") == "+OK"
    finding = examined(redis_server.url)["redis memory"]
    assert finding.result is Result.WARNING
    assert "bytes in use" in finding.reason


def test_one_that_is_not_there(redis_server: Any) -> None:
    redis_server.stop()
    (finding,) = examined(redis_server.url).values()
    assert finding.result is Result.FAILED
    assert finding.reason == f"{redis_server.url} does not answer: No such file or directory"
    (finding,) = examined("redis://name:secret@127.0.0.1:1/0").values()
    assert finding.reason == "redis://…@127.0.0.1:1/0 does not answer: Connection refused"


def test_one_that_is_silent(redis_server: Any) -> None:
    redis_server.pause()
    try:
        seen = store.look(RedisSettings(url=redis_server.url, timeout=0.1))
    finally:
        redis_server.resume()
    assert seen.fault == "no answer in time"


def test_one_with_another_password(redis_server: Any) -> None:
    assert redis_server.command("CONFIG", "SET", "requirepass", "hidden-one") == "+OK"
    (finding,) = examined(redis_server.url, password=SecretStr("wrong-one")).values()
    assert finding.result is Result.FAILED
    assert "wrong-one" not in str(finding)


def test_one_by_sentinels(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with watched(request.getfixturevalue("_redis_binary"), tmp_path) as trio:
        where = {"sentinels": trio.addresses, "master": MASTER, "timeout": 5.0}
        found = store.look(RedisSettings(**where))
        assert (found.fault, found.info["role"]) == ("", "master")
        assert found.place == f"{MASTER} by the sentinels {', '.join(trio.addresses)}"
        found = store.look(RedisSettings(**(where | {"master": "other"})))
        assert found.fault == "no sentinel knows a master 'other' that is up"


def test_one_whose_certificates_are_not_there() -> None:
    (finding,) = examined("rediss://h", tls_ca_file="/nonexistent.pem").values()
    assert "redis.tls_ca_file: /nonexistent.pem: No such file" in finding.reason


@pytest.mark.parametrize(
    ("info", "check", "reason"),
    [
        ({"redis_version": "5.0.14"}, "redis", "version 5.0.14 is older than 6.2"),
        ({"redis_version": "7.0.0", "role": "slave"}, "redis", "unix:///x is a replica: it takes no writes"),
        ({"rdb_last_bgsave_status": "err"}, "redis persistence", "the last snapshot failed"),
        ({"aof_last_write_status": "err"}, "redis persistence", "the last write of the append-only file failed"),
    ],
)
def test_judgements(info: dict[str, str], check: str, reason: str) -> None:
    found = {finding.check: finding for finding in store.judge(store.Seen("unix:///x", info=info))}
    assert (found[check].result, found[check].reason) == (Result.FAILED, reason)
    assert found[check].mend


def test_where_config_is_closed() -> None:
    *_, persistence = store.judge(store.Seen("unix:///x", info={"redis_version": "7.0.0"}))
    assert (persistence.result, persistence.reason) == (Result.OK, "not seen: CONFIG is closed")
