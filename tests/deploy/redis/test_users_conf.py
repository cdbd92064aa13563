"""The users shipped for Redis: each part can do all its work as its own user, and nothing else."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import ports
from health.config import RedisSettings
from health.registry import Registry, RegistryError, StaleVersionError
from tests.health.registry.found_keys import wrong_keys
from tests.health.registry.servers import MASTER, Server, until, watched
from tests.health.registry.test_outage import CALLS
from tests.health.registry.test_sentinels import first_success

ROOT = Path(__file__).parents[3]
SHIPPED = (ROOT / "deploy" / "redis" / "users.conf").read_text()
ROLES = {
    "gateway": {"ping", "snapshot", "state", "pin_session", "renew_limits"},
    "health": {"epoch", "nodes", "put_samples", "samples", "collectors", "scores", "put_scores", "acquire", "release"},
    "control": CALLS.keys() - {"acquire", "release", "pin_session", "renew_limits", "put_samples", "put_scores"},
}
# What a user may read or do besides, as a part of what its work needs.
BESIDES = {
    "gateway": {"epoch", "node", "nodes", "pool", "pools", "users", "scores", "usage"},
    "health": {"ping", "node", "state", "publish"},
    "control": CALLS.keys(),
}
PASSWORDS = {role: secrets.token_hex(32) for role in (*ROLES, "replica", "sentinel")}


def filled() -> list[str]:
    """The shipped lines, with real hashes."""
    text = re.sub(
        r"SHA256-OF-([A-Z]+)", lambda found: hashlib.sha256(PASSWORDS[found[1].lower()].encode()).hexdigest(), SHIPPED
    )
    return [line for line in text.splitlines() if line]


def as_root(lines: list[str]) -> list[str]:
    """For the test itself: one more user, who may do all."""
    return ['save ""', *lines, "user root on >root ~* &* +@all"]


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    binary = request.getfixturevalue("_redis_binary")
    with Server(binary, tmp_path, as_root(filled()), username="root", password="root") as started:
        yield started


def refused(server: Server) -> set[str]:
    """The commands that somebody was not allowed."""
    log = [dict(zip(entry[::2], entry[1::2], strict=True)) for entry in server.ask("ACL", "LOG")]
    return {entry["object"] for entry in log}


def opened(server: Server, role: str) -> Registry:
    return Registry.open(RedisSettings(url=server.url, username=role, password=PASSWORDS[role], timeout=2))


def test_as_shipped_redis_does_not_start(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    binary = request.getfixturevalue("_redis_binary")
    file = tmp_path / "redis.conf"
    file.write_text(f"port 0\n{SHIPPED}")
    done = subprocess.run([binary, file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "password hash must be exactly 64 characters" in done.stdout + done.stderr


def test_nobody_comes_in_without_a_password(server: Server) -> None:
    with pytest.raises(Exception, match=r"NOAUTH|Authentication required"):
        server.ask("GET", "vx:1:epoch", username=None, password=None)


@pytest.mark.parametrize("role", ROLES)
async def test_each_does_its_work(server: Server, role: str) -> None:
    registry = opened(server, role)
    for name in sorted(ROLES[role]):
        with contextlib.suppress(StaleVersionError):
            await CALLS[name](registry)
    await registry.close()
    assert refused(server) <= {"config|get"}  # doctor does without


@pytest.mark.parametrize(("role", "lease"), [("health", "scorer"), ("control", "reconciler")])
async def test_who_stands_by_may_cut_a_lease(server: Server, role: str, lease: str) -> None:
    """One that the clock made longer by an hour."""
    key = f"vx:1:lease:{lease}"
    server.ask("SET", key, "somebody", "EX", "3603")
    registry = opened(server, role)
    if role == "health":
        assert not await registry.acquire(lease, "other", 3)
    else:
        assert await registry.lead(lease, "", "other", 3) == ""
    await registry.close()
    assert 0 < int(server.ask("PTTL", key)) <= 3000


@pytest.mark.parametrize("role", ["gateway", "health"])
async def test_and_nothing_more(server: Server, role: str) -> None:
    registry = opened(server, role)
    for name in sorted(CALLS.keys() - ROLES[role] - BESIDES[role]):
        with pytest.raises(RegistryError, match=r"no permissions|can't access|ACL"):
            await CALLS[name](registry)
    await registry.close()
    assert set(server.ask("KEYS", "*")) <= {"vx:1:sequence"}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    "words",
    [
        ("FLUSHALL",), ("KEYS", "*"), ("SCAN", "0"), ("CONFIG", "SET", "save", ""), ("CONFIG", "GET", "*"),
        ("SHUTDOWN",), ("ACL", "LIST"), ("MONITOR",),
        ("CLIENT", "LIST"), ("REPLICAOF", "NO", "ONE"),
        ("SET", "other", "1"), ("GET", "other"), ("DEL", "vx:2:epoch"), ("SUBSCRIBE", "other"),
        ("PUBLISH", "other", "x"), ("EVAL", "return redis.call('SET', 'other', '1')", "0"),
        ("MODULE", "LIST"), ("SAVE",),
    ],
)  # fmt: skip
def test_what_nobody_may(server: Server, role: str, words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"(?i)no permissions|NOPERM"):
        server.ask(*words, username=role, password=PASSWORDS[role])


@pytest.mark.parametrize("role", ["gateway", "health"])
@pytest.mark.parametrize(
    "words",
    [
        ("SET", "vx:1:node:jp000001", "{}"), ("DEL", "vx:1:user:bob"), ("SET", "vx:1:user:bob", "{}"),
        ("GET", "vx:1:token:0123456789ab"), ("SET", "vx:1:pool:jp", "{}"), ("SET", "vx:1:epoch", "x"),
        ("SET", "vx:1:lease:reconciler", "x"), ("SADD", "vx:1:nodes", "x"), ("GET", "vx:1:slot:main:0"),
    ],
)  # fmt: skip
def test_what_only_control_may(server: Server, role: str, words: tuple[str, ...]) -> None:
    with pytest.raises(Exception, match=r"(?i)no permissions|NOPERM"):
        server.ask(*words, username=role, password=PASSWORDS[role])


def test_the_real_parts_work_as_their_users(server: Server, tmp_path: Path) -> None:
    """Gateway, scorer, collector and control as programs; a user with limits, a session. No command is refused."""
    address, metrics, api = (ports.free() for _ in range(3))
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "VPNEXIT_STATE_DIR": str(tmp_path / "state"),
        "VPNEXIT_REDIS__URL": server.url,
        "VPNEXIT_GATEWAY__LISTEN": f"127.0.0.1:{address}",
        "VPNEXIT_GATEWAY__METRICS_LISTEN": f"127.0.0.1:{metrics}",
        "VPNEXIT_GATEWAY__WORKERS": "1",
        "VPNEXIT_GATEWAY__REQUIRE_AUTH": "true",
        "VPNEXIT_CONTROL__LISTEN": f"127.0.0.1:{api}",
        "VPNEXIT_CONTROL__ENGINE": "none",
        "VPNEXIT_CONTROL__DIRECT_NODES": "zz",
    }
    with contextlib.ExitStack() as stack:
        for part, role in (
            ("control", "control"),
            ("scorer", "health"),
            ("collector", "health"),
            ("gateway", "gateway"),
        ):
            stack.enter_context(program(part, env | login(tmp_path, role), tmp_path))
        until(lambda: answers(f"http://127.0.0.1:{metrics}/ready"), "ready gateway", 30)
        password = (tmp_path / "state" / "admin.password").read_text().strip()
        bob = {"name": "bob", "password": secrets.token_hex(8), "max_connections": 5, "monthly_bytes": 10_000_000}
        curl("-u", f"admin:{password}", "-H", "Content-Type: application/json", "-d", json.dumps(bob), "-f",
             f"http://127.0.0.1:{api}/api/users")  # fmt: skip
        proxy = f"http://bob-session-one:{bob['password']}@127.0.0.1:{address}"
        until(lambda: '"zz"' in curl("-x", proxy, "http://vpnexit.internal/"), "exit for bob", 15)
        until(lambda: server.ask("EXISTS", "vx:1:session:bob:one"), "session in Redis")
        until(lambda: server.ask("KEYS", "vx:1:limits:bob"), "lease in Redis")
        until(lambda: server.ask("KEYS", "vx:1:score:zz*"), "score in Redis")
        time.sleep(1.5)
        assert refused(server) == set()
        assert wrong_keys(server.ask) == {}
        connected = set(re.findall(r"user=(\w+)", server.ask("CLIENT", "LIST")))
        assert connected >= set(ROLES)


@contextlib.contextmanager
def program(part: str, env: dict[str, str], directory: Path) -> Iterator[None]:
    log = directory / f"{part}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "deploy.cli", part], cwd=ROOT, env=env, stderr=out)
    try:
        yield
    except BaseException:
        print(part, log.read_text()[-2000:])
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        process.kill()
        process.wait()


def login(directory: Path, role: str) -> dict[str, str]:
    file = directory / f"{role}.password"
    file.write_text(PASSWORDS[role] + "\n")
    file.chmod(0o600)
    return {"VPNEXIT_REDIS__USERNAME": role, "VPNEXIT_REDIS__PASSWORD_FILE": str(file)}


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def curl(*words: str) -> str:
    return subprocess.run(["curl", "-sS", "-m", "10", *words], capture_output=True, text=True, check=False).stdout


async def test_replicas_and_sentinels_work_as_their_users(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    binary = request.getfixturevalue("_redis_binary")
    lines = [*as_root(filled())[1:], "masteruser replica", f"masterauth {PASSWORDS['replica']}"]
    watch = [f"sentinel auth-user {MASTER} sentinel", f"sentinel auth-pass {MASTER} {PASSWORDS['sentinel']}"]
    with watched(binary, tmp_path, lines, watch, ("root", "root")) as trio:
        settings = RedisSettings(
            url="redis:///0", sentinels=trio.addresses, master=MASTER, username="control", password=PASSWORDS["control"]
        )
        registry = Registry.open(settings)
        await registry.begin_epoch()
        trio.first.kill()
        await first_success(registry.begin_epoch)
        await registry.close()
        assert refused(trio.second) == set()
