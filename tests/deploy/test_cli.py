"""The command itself: help, exit codes, processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def vpnexit(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_help_names_every_command() -> None:
    done = vpnexit("--help")
    assert done.returncode == 0
    for command in ("up", "gateway", "control", "collector", "scorer", "lab", "nodes", "pools", "users"):
        assert f" {command} " in done.stdout


@pytest.mark.parametrize("command", ["gateway", "control", "collector", "scorer"])
def test_wrong_configuration_is_exit_code_2_and_one_line(command: str) -> None:
    done = vpnexit(command, VPNEXIT_REDIS__URL="nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("vpnexit: wrong configuration: redis.url (from VPNEXIT_REDIS__URL): ")


def test_missing_configuration_file() -> None:
    done = vpnexit("gateway", "--config", "/nonexistent.toml")
    assert done.returncode == 2
    assert done.stderr == (
        "vpnexit: wrong configuration: cannot read the configuration file /nonexistent.toml: "
        "No such file or directory\n"
    )


def test_unknown_command_is_exit_code_2() -> None:
    assert vpnexit("nonsense").returncode == 2


@pytest.mark.parametrize("command", ["gateway", "collector", "scorer"])
def test_processes_end_on_sigterm(command: str, redis_url: str, tmp_path: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "VPNEXIT_REDIS__URL": redis_url,
        "VPNEXIT_STATE_DIR": str(tmp_path),
        "VPNEXIT_GATEWAY__LISTEN": "127.0.0.1:0",
        "VPNEXIT_GATEWAY__METRICS_LISTEN": "127.0.0.1:0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", command], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert '"level": "info"' in first, first
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert process.returncode == 0, process.stderr.read()
        finally:
            process.kill()
