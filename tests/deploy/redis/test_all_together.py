"""Every part as a program, by sentinels, over TLS, each as its own user; then the master is killed."""

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import ports
from tests.deploy.redis.test_users_conf import PASSWORDS, answers, as_root, curl, filled, login, program, refused
from tests.health.registry.certificates import Authority
from tests.health.registry.servers import MASTER, until, watched

# A busy machine may take twice as long; the sentinels themselves need about 2 s.
FOLLOWED_S = 2 * 5.0


@pytest.mark.timeout(180)
def test_a_killed_master_stops_no_part(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    binary = request.getfixturevalue("_redis_binary")
    ours = Authority(tmp_path, "ours")
    server, client = ours.issue("redis", ["127.0.0.1"]), ours.issue("part", ["part.test"])
    tls = ["port 0", "tls-port PORT", "tls-auth-clients yes", "tls-replication yes"]
    tls += [f"tls-cert-file {server.cert}", f"tls-key-file {server.key}", f"tls-ca-cert-file {ours.file}"]
    lines = [*tls, *as_root(filled())[1:], "masteruser replica", f"masterauth {PASSWORDS['replica']}"]
    watch = [*tls, f"sentinel auth-user {MASTER} sentinel", f"sentinel auth-pass {MASTER} {PASSWORDS['sentinel']}"]
    how = {
        "ssl": True,
        "ssl_ca_certs": str(ours.file),
        "ssl_certfile": str(client.cert),
        "ssl_keyfile": str(client.key),
    }
    address, metrics, api = (ports.free() for _ in range(3))
    with contextlib.ExitStack() as stack:
        trio = stack.enter_context(watched(binary, tmp_path, lines, watch, ("root", "root"), **how))
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "VPNEXIT_STATE_DIR": str(tmp_path / "state"),
            "VPNEXIT_REDIS__URL": "rediss:///0",
            "VPNEXIT_REDIS__SENTINELS": ",".join(trio.addresses),
            "VPNEXIT_REDIS__MASTER": MASTER,
            "VPNEXIT_REDIS__TLS_CA_FILE": str(ours.file),
            "VPNEXIT_REDIS__TLS_CERT_FILE": str(client.cert),
            "VPNEXIT_REDIS__TLS_KEY_FILE": str(client.key),
            "VPNEXIT_GATEWAY__LISTEN": f"127.0.0.1:{address}",
            "VPNEXIT_GATEWAY__METRICS_LISTEN": f"127.0.0.1:{metrics}",
            "VPNEXIT_GATEWAY__WORKERS": "1",
            "VPNEXIT_CONTROL__LISTEN": f"127.0.0.1:{api}",
            "VPNEXIT_CONTROL__ENGINE": "none",
            "VPNEXIT_CONTROL__DIRECT_NODES": "zz",
        }
        for part in ("control", "scorer", "collector", "gateway"):
            role = part if part in PASSWORDS else "health"
            stack.enter_context(program(part, env | login(tmp_path, role), tmp_path))
        until(lambda: answers(f"http://127.0.0.1:{metrics}/ready"), "ready gateway", 30)
        proxy = f"http://127.0.0.1:{address}"
        until(lambda: '"zz"' in curl("-x", proxy, "http://vpnexit.internal/"), "exit", 15)
        until(lambda: trio.first.ask("KEYS", "vx:1:score:zz*"), "score in Redis", 15)
        until(lambda: int(trio.first.ask("WAIT", 1, 100)) == 1, "replica that is up to date")

        def add(name: str) -> bool:
            password = (tmp_path / "state" / "admin.password").read_text().strip()
            user = json.dumps({"name": name, "password": secrets.token_hex(8)})
            words = ["-u", f"admin:{password}", "-H", "Content-Type: application/json", "-d", user, "-o", "/dev/null"]
            return curl(*words, "-w", "%{http_code}", f"http://127.0.0.1:{api}/api/users").startswith("20")

        with asked_all_the_while(proxy) as failures:
            assert add("before")
            killed = time.monotonic()
            trio.first.kill()
            until(lambda: add(f"after{time.monotonic_ns()}"), "write by the API", 30)
            written = time.monotonic() - killed
            until(lambda: float(score(trio.second)["at"]) > time.time() - 1.5, "new scores", 15)
            scored = time.monotonic() - killed
            time.sleep(1)
        print(f"killed to the API's write {written:.1f} s, to new scores {scored:.1f} s, {failures[0]} requests")
        assert failures == [failures[0]]
        assert failures[0] > 20
        assert max(written, scored) < FOLLOWED_S
        assert trio.second.role() == "master"
        assert refused(trio.second) == set()

        def age() -> float:
            shown = curl(f"http://127.0.0.1:{metrics}/metrics").splitlines()
            (line,) = (line for line in shown if line.startswith("vpnexit_gateway_snapshot_age_seconds "))
            return float(line.split()[1])

        until(lambda: age() < 2, "fresh snapshot")


def score(server: object) -> dict[str, float]:
    (key,) = server.ask("KEYS", "vx:1:score:zz*")  # type: ignore[attr-defined]
    return json.loads(server.ask("GET", key))  # type: ignore[attr-defined, no-any-return]


@contextlib.contextmanager
def asked_all_the_while(proxy: str) -> Iterator[list[object]]:
    """How many requests there were, and then what went wrong."""
    seen: list[object] = [0]
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.05):
            said = curl("-x", proxy, "http://vpnexit.internal/")
            seen[0] = int(str(seen[0])) + 1
            if '"zz"' not in said:
                seen.append(said)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
