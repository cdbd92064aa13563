"""Events over connections that break, with real clients: curl, and the command line across an API that is restarted."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.deploy.conftest import ROOT


def touch(up: Any, country: str, most: int) -> None:
    """Something that makes an event about `country`."""
    up.wait_for(lambda: up.vpnexit("pools", "set", country, "--max", str(most)).returncode == 0, 30)


def test_curl_goes_on_where_its_connection_broke(running: Any) -> None:
    login = f"admin:{(running.state_dir / 'admin.password').read_text().strip()}"

    @contextmanager
    def listening(*more: str) -> Iterator["subprocess.Popen[str]"]:
        command = ["curl", "-sN", "--noproxy", "*", "-u", login, *more, f"http://{running.address}:8080/api/events"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
            try:
                yield curl
            finally:
                curl.kill()

    def events(curl: "subprocess.Popen[str]", country: str) -> tuple[str, list[str]]:
        """The id of the pool's event, and the countries of all pools told up to it."""
        told, last = [], ""
        assert curl.stdout is not None
        for line in curl.stdout:
            last = line[4:].strip() if line.startswith("id: ") else last
            if line.startswith("data: ") and (found := json.loads(line[6:]))["kind"] == "pool":
                told.append(found["subject"])
                if found["subject"] == country:
                    return last, told
        raise AssertionError("the stream ended")

    with listening() as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "retry: 1000\n"
        touch(running, "fr", 3)
        last, _ = events(first, "fr")
    for number, country in enumerate(("de", "es"), 3):
        touch(running, country, number)
    with listening("-H", f"Last-Event-ID: {last}") as again:
        touch(running, "it", 5)
        _, told = events(again, "it")
    assert told == ["de", "es", "it"], "what happened meanwhile, once, in order"


def test_the_command_goes_on_across_a_restarted_api(up: Any, tmp_path: Path) -> None:
    up.start()
    up.wait_ready()
    with (tmp_path / "heard").open("w") as out, (tmp_path / "said").open("w") as said:
        command = [sys.executable, "-m", "deploy.cli", "events", "--json"]
        listening = subprocess.Popen(command, cwd=ROOT, env=up.env, stdout=out, stderr=said)

    def heard(pattern: str) -> bool:
        return re.search(pattern, (tmp_path / "heard").read_text()) is not None

    try:
        numbers = iter(range(1, 10_000))
        up.wait_for(lambda: touch(up, "fr", next(numbers) % 9 + 1) or heard('"subject":"fr"'), 30)
        os.kill(up.pid_of("deploy.cli control"), signal.SIGKILL)
        up.wait_for(lambda: "asking again" in (tmp_path / "said").read_text())
        up.wait_for(lambda: touch(up, "de", next(numbers) % 9 + 1) or heard('"subject":"de"'), 30)
        assert heard('"event":"gap"'), "another instance cannot know what was missed, and says so"
        listening.send_signal(signal.SIGINT)
        assert listening.wait(20) == 130
    finally:
        listening.kill()
        listening.wait()
    ids = [json.loads(line)["id"] for line in (tmp_path / "heard").read_text().splitlines()]
    assert len(ids) == len(set(ids))
    assert "Traceback" not in (tmp_path / "said").read_text()
