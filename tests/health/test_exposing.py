"""The metrics of scorer and collector, on their listeners."""

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from deploy import ports
from health import exposing as module
from health.config import MetricsSettings
from health.exposing import Exposed
from health.lease import Lease
from health.registry import PREFIX
from tests.health.registry.servers import until

OPEN = MetricsSettings()


def read(address: str, token: str = "") -> dict[str, float]:
    request = urllib.request.Request(f"http://{address}/metrics")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read().decode()
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


class Looked(Lease):
    """What a lease knows after a look: it is ours, somebody's on this machine, or somebody's elsewhere."""

    def __init__(self, *, held: bool = False, beside: bool = False) -> None:
        self.held, self.beside = held, beside


OURS, BESIDE, ELSEWHERE = Looked(held=True), Looked(beside=True), Looked()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
async def test_shown_by_whoever_works_and_beside_nobody(host: str, unused_tcp_port: int) -> None:
    address = f"{host}:{unused_tcp_port}"
    with Exposed(address, OPEN) as exposed:
        for lease in (BESIDE, OURS, OURS, BESIDE, ELSEWHERE):
            await exposed.follow(lease)
            if lease is not BESIDE:
                found = await asyncio.to_thread(read, address)
                assert 3 < found["process_open_fds"] < found["process_max_fds"]
            else:
                with pytest.raises(urllib.error.URLError):
                    await asyncio.to_thread(read, address)
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(read, address)


async def test_a_token_is_asked_for(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    with Exposed(address, MetricsSettings(token=SecretStr("s3cret-token"))) as exposed:
        await exposed.follow(OURS)
        assert await asyncio.to_thread(read, address, "s3cret-token")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(read, address)


async def test_one_leaves_the_address_to_the_other_and_nobody_complains(unused_tcp_port: int) -> None:
    address = f"127.0.0.1:{unused_tcp_port}"
    with Exposed(address, OPEN) as one, Exposed(address, OPEN) as other, structlog.testing.capture_logs() as logged:
        await one.follow(OURS)
        await other.follow(OURS)
        await one.follow(BESIDE)
        async with asyncio.timeout(20):
            while len(logged) < 2:
                await other.follow(OURS)
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(read, address)
    assert [line["log_level"] for line in logged] == ["info", "info"]


async def test_an_address_that_stays_taken_is_told_once_and_tried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as other, structlog.testing.capture_logs() as logged:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with Exposed(address, OPEN) as exposed:
            await exposed.follow(OURS)
            await asyncio.sleep(0.1)
            await exposed.follow(ELSEWHERE)
            assert not logged
            for _ in range(3):
                await exposed.follow(OURS)
            (line,) = logged
            assert (line["event"], line["listen"]) == ("metrics are not shown", address)
            assert "Address already in use" in line["reason"]
            other.close()
            await exposed.follow(OURS)
            assert await asyncio.to_thread(read, address)


@pytest.mark.parametrize("part", ["scorer", "collector"])
def test_of_two_real_processes_the_one_that_works_shows_its_own(
    part: str, redis_url: str, raw: Any, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Both start at once, with one address; the one that works is killed, a third one starts, and so on."""
    host, port = "127.0.0.1", unused_tcp_port
    address = f"{host}:{port}"
    config = tmp_path / "config.toml"
    config.write_text(
        f'machine = "m1"\n[redis]\nurl = "{redis_url}"\ntimeout = 2\n[{part}]\nmetrics_listen = "{address}"\n'
    )
    lease = PREFIX + {"scorer": "lease:scorer", "collector": "lease:collecting:m1"}[part]
    moment = {"scorer": "vpnexit_scorer_written", "collector": "vpnexit_collector_round"}[part] + "_timestamp_seconds"

    def works() -> str:
        holder = raw.get(lease)
        return holder.split(".")[1] if holder else ""

    def shown(since: float) -> bool:
        """Whether the one that works listens there, and has done a round since then."""
        with contextlib.suppress(OSError):
            return f"(process {works()})" in ports.holder(host, port) and read(address)[moment] > since
        return False

    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w+"))

        def start() -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "deploy.cli", part, "--config", str(config)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def said(words: str) -> int:
            return (tmp_path / "log").read_text().count(words)

        pair = [start(), start()]
        until(lambda: shown(time.time() - 5), "numbers", 40)
        until(lambda: said("standing by") == 1, "standby", 40)
        assert read(address)[f"vpnexit_{part}_redis_errors_total"] == 0
        (first,) = [process for process in pair if str(process.pid) == works()]
        (second,) = [process for process in pair if process is not first]
        first.kill()
        killed = time.time()
        first.wait()
        until(lambda: shown(killed), "numbers of the other", 5 * 2)
        if part == "scorer":
            found = read(address)
            assert found["vpnexit_scorer_leader"] == 1
            assert found["vpnexit_scorer_round_seconds_count"] >= 1
        third = start()
        until(lambda: said("standing by") == 2, "new standby", 40)
        second.terminate()
        assert second.wait(30) == 0
        until(lambda: shown(time.time() - 5), "numbers of the third", 40)
        third.terminate()
        assert third.wait(30) == 0
        assert raw.get(lease) is None
        assert not said('"level": "error"'), (tmp_path / "log").read_text()
        assert said('"level": "info"') > 5
