"""Dead is who is seen to be dead, and nobody else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from health import holder

NAME = [sys.executable, "-c", "from health import holder; print(holder.name(), flush=True); input()"]


def test_whoever_lives_is_not_dead() -> None:
    assert not holder.is_dead(holder.name())
    assert holder.name() != holder.name()


def test_a_killed_process_is_dead_also_before_it_is_reaped() -> None:
    with subprocess.Popen(NAME, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not holder.is_dead(name)
        process.send_signal(signal.SIGSTOP)
        assert not holder.is_dead(name), "it may go on"
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holder.is_dead(name), "a zombie"
    assert holder.is_dead(name)


def test_here_is_who_can_be_seen_alive_or_dead() -> None:
    assert holder.is_here(holder.name())
    where, pid, start, token = holder.name().split(".")
    assert holder.is_here(f"{where}.{pid}.{int(start) - 1}.{token}")
    assert not holder.is_here(f"other-{where}.{pid}.{start}.{token}")
    assert not holder.is_here("")


def test_another_process_of_that_number_is_another_one() -> None:
    where, pid, start, token = holder.name().split(".")
    assert holder.is_dead(f"{where}.{pid}.{int(start) - 1}.{token}")


@pytest.mark.parametrize("name", ["", "x", "a.b.c", "cafe01", "." * 9, "a" * 5000])
def test_who_cannot_be_seen_is_not_called_dead(name: str) -> None:
    assert not holder.is_dead(name)
    where, pid, start, token = holder.name().split(".")
    assert not holder.is_dead(f"other-{where}.999999999.{start}.{token}")
    assert not holder.is_dead(f"{where}.{'9' * 40}.{start}.{token}")
    assert not holder.is_dead(f"{where}.-{pid}.{start}.{token}")


def test_a_process_of_another_pid_namespace_is_not_judged() -> None:
    as_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *as_root, "--pid", "--fork", "--mount-proc", *NAME]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert name.split(".")[1] == "1"
        process.communicate("\n")
    assert not holder.is_dead(name)
