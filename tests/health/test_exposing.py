"""The metrics of scorer and collector, on their listeners."""

import asyncio
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from health import exposing as module
from health.config import MetricsSettings
from health.exposing import exposing


def read(address: str, token: str = "") -> dict[str, float]:
    request = urllib.request.Request(f"http://{address}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read().decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


async def until_read(address: str, token: str = "") -> dict[str, float]:
    async with asyncio.timeout(30):
        while True:
            try:
                return await asyncio.to_thread(read, address, token)
            except urllib.error.URLError as error:
                if isinstance(error, urllib.error.HTTPError):
                    raise
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_the_process_is_shown(host: str, unused_tcp_port: int) -> None:
    async with exposing(f"{host}:{unused_tcp_port}", MetricsSettings()):
        found = await until_read(f"{host}:{unused_tcp_port}")
    assert 3 < found["process_open_fds"] < found["process_max_fds"]
    with pytest.raises(urllib.error.URLError):
        read(f"{host}:{unused_tcp_port}")


async def test_a_token_is_asked_for(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    async with exposing(address, MetricsSettings(token=SecretStr("s3cret-token"))):
        assert await until_read(address, "s3cret-token")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(read, address)


async def test_a_taken_address_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        async with exposing(address, MetricsSettings()):
            await asyncio.sleep(0.2)
            other.close()
            assert await until_read(address)


@pytest.mark.parametrize("part", ["scorer", "collector"])
def test_the_real_processes_show_theirs(part: str, redis_url: str, tmp_path: Path, unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    config = tmp_path / "config.toml"
    config.write_text(f'[redis]\nurl = "{redis_url}"\n[{part}]\nmetrics_listen = "{address}"\n')
    process = subprocess.Popen([sys.executable, "-m", "deploy.cli", part, "--config", str(config)])
    try:
        deadline = time.monotonic() + 60
        name = {"scorer": "vpnexit_scorer_written", "collector": "vpnexit_collector_round"}[part] + "_timestamp_seconds"
        while True:
            try:
                if read(address)[name] > time.time() - 5:
                    break
            except OSError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.05)
        found = read(address)
        assert found[f"vpnexit_{part}_redis_errors_total"] == 0
        if part == "scorer":
            assert found["vpnexit_scorer_leader"] == 1
            assert found["vpnexit_scorer_round_seconds_count"] >= 1
    finally:
        process.terminate()
        assert process.wait(30) == 0
