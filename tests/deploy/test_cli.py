"""The command itself: help, exit codes, processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def vpnexit(*words: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "COLUMNS": "200", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_names_every_command() -> None:
    done = vpnexit("--help")
    assert done.returncode == 0
    processes, topics = (
        ("up", "gateway", "control", "collector", "scorer", "lab"),
        ("nodes", "pools", "users", "tokens"),
    )
    for command in (*processes, *topics, "countries", "best", "stats", "events", "doctor", "image"):
        assert f" {command} " in done.stdout
    codes = "0 done; 1 refused by the API, or failed; 2 wrong usage or configuration; 3 the API was not reached"
    assert codes in " ".join(done.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    done = vpnexit(_VPNEXIT_COMPLETE=f"source_{shell}")
    assert done.returncode == 0, done.stderr
    assert "vpnexit" in done.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=True, timeout=10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nodes", "show", "x" * 100_000], "argument 3 is 100,000 characters long: at most 4,096"),
        (["nodes", "show", "x" * 4000], "letters, digits, dots, dashes and underscores only"),
        (["nodes", "show", "jp\udcff\x1b[2J"], "letters, digits, dots, dashes and underscores only"),
        (["no\udcff\x1b[2Jnsense"], "No such command"),
        (["nodes", "list", "--no\udcff=\x1b[2J"], "No such option"),
        (["pools", "scale", "jp", "9" * 4000], "Input should be less than or equal to 10"),
        (["nodes", "start", "jp", "--city", "\udcff"], "printable characters"),
    ],
)
def test_odd_arguments_are_refused_in_words(words: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "admin.password").write_text("x")
    done = vpnexit(*words, VPNEXIT_STATE_DIR=str(tmp_path), VPNEXIT_API="127.0.0.1:1")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("words", [["nodes", "--help"], ["doctor", "--json"]])
def test_a_full_disk_and_a_reader_that_left(words: list[str]) -> None:
    def run(stdout: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "deploy.cli", *words]
        return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)

    with open("/dev/full", "w") as full:
        done = run(full)
    assert done.returncode == 1
    assert done.stderr == "vpnexit: cannot write to standard output: No space left on device\n"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = run(pipe)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 1, "vpnexit: cannot write to standard output: it is closed\n"),
        ("2>&-", 3, ""),
        ("2>/dev/full", 3, ""),
        (">&- 2>&-", 1, ""),
    ],
)
def test_streams_that_are_closed_or_full(redirection: str, code: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "admin.password").write_text("x")
    env = {"PATH": os.environ["PATH"], "VPNEXIT_STATE_DIR": str(tmp_path), "VPNEXIT_API": "127.0.0.1:1"}
    command = f"{sys.executable} -m deploy.cli nodes list {redirection}"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_a_terminal_that_knows_no_umlauts(tmp_path: Path) -> None:
    done = vpnexit(
        "doctor", "--quiet", VPNEXIT_STATE_DIR=str(tmp_path), PYTHONIOENCODING="ascii", VPNEXIT_REDIS__URL="unix:///x"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "redis: unix:///x does not answer" in done.stdout


@pytest.mark.parametrize("command", ["gateway", "control", "collector", "scorer"])
def test_wrong_configuration_is_exit_code_2_and_one_line(command: str) -> None:
    done = vpnexit(command, VPNEXIT_REDIS__URL="nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("vpnexit: wrong configuration: redis.url (from VPNEXIT_REDIS__URL): ")


@pytest.mark.parametrize("command", ["gateway", "control", "collector", "scorer"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SENTINELS": "127.0.0.1:26379"}, "redis: redis.sentinels is set without redis.master"),
        ({"SENTINELS": "s1", "MASTER": "vx"}, "redis.sentinels.0 (from VPNEXIT_REDIS__SENTINELS): write HOST:PORT"),
        ({"URL": "rediss://h", "TLS_CA_FILE": "/nonexistent.pem"}, "redis.tls_ca_file: /nonexistent.pem: No such file"),
        ({"PASSWORD": "changeme"}, "redis.password: this is a placeholder"),
    ],
)
def test_half_a_way_to_redis_is_refused_at_start(command: str, settings: dict[str, str], said: str) -> None:
    done = vpnexit(command, **{f"VPNEXIT_REDIS__{name}": value for name, value in settings.items()})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith(f"vpnexit: wrong configuration: {said}")


def test_missing_configuration_file() -> None:
    done = vpnexit("gateway", "--config", "/nonexistent.toml")
    assert done.returncode == 2
    assert done.stderr == (
        "vpnexit: wrong configuration: cannot read the configuration file /nonexistent.toml: "
        "No such file or directory\n"
    )


def test_an_image_without_docker(tmp_path: Path) -> None:
    done = vpnexit("image", "--tag", "exit", VPNEXIT_CONTROL__DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 1
    assert done.stderr.startswith("vpnexit: Docker could not build exit: ")
    assert done.stderr.count("\n") == 1


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
        "VPNEXIT_SCORER__METRICS_LISTEN": "127.0.0.1:0",
        "VPNEXIT_COLLECTOR__METRICS_LISTEN": "127.0.0.1:0",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", command], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert '"level": "info"' in first, first
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 30
            while process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert process.returncode == 0, process.stderr.read()
        finally:
            process.kill()
