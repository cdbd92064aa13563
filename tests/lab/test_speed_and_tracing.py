"""Speed tests of real tunnels, beside the same transfer made by hand; and one id of a connection from end to end."""

import json
import re
import subprocess
import sys
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import world
from tests.lab.harness import ROOT, Lab, wait_for

SIZE = 25_000_000


def vpnexit(lab: Lab, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words, "--json", "--api", lab.status["api"]],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "VPNEXIT_STATE_DIR": lab.status["state_dir"]},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_hand(lab: Lab, node: str, way: str) -> float:
    """Megabits a second that curl sees through the node, inside its namespace: no proxy, no agent."""
    url = {"down": f"http://{world.WHOAMI}/bytes?n={SIZE}", "up": f"http://{world.WHOAMI}/sink"}[way]
    body = [] if way == "down" else ["-T", "-", "-X", "POST", "-H", "Expect:"]
    speed = "%{speed_download}" if way == "down" else "%{speed_upload}"
    command = ["nsenter", lab.namespace(f"vpnexit-{node}"), "curl", "-sS", "-m", "60", "-o", "/dev/null", "-w", speed]
    done = subprocess.run(
        [*command, *body, url],
        input=b"" if way == "down" else bytes(SIZE),
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return float(done.stdout) * 8 / 1e6


@pytest.mark.parametrize("country", ["jp", "us", "gb"])
def test_a_tunnel_is_measured_as_curl_measures_it(lab: Lab, country: str) -> None:
    node = lab.nodes(country)[0]
    for _ in range(3):
        told = vpnexit(lab, "nodes", "speed-test", node, "--wait", "--timeout", "60")
        direct = {way: by_hand(lab, node, way) for way in ("down", "up")}
        print(country, told["download_mbps"], told["upload_mbps"], told["latency_ms"], direct)
        assert (told["node_id"], told["status"], told["error"]) == (node, "done", "")
        assert told["latency_ms"] > 0
        assert vpnexit(lab, "nodes", "speeds", node, "--limit", "1") == [told]
        # A machine that others use: a factor of four says that it is this line, and that no unit is wrong. Where the
        # machine did something else during one of the two, they are taken again.
        down, up = told["download_mbps"] / direct["down"], told["upload_mbps"] / direct["up"]
        if told["latency_ms"] < 100 and 1 / 4 < down < 4 and 1 / 4 < up < 4:
            return
    pytest.fail(f"measured {told}, by hand {direct}")


def test_others_are_sampled_once_a_second_meanwhile(lab: Lab) -> None:
    """The collector measures and samples in one event loop. The machine may stand still, but not thrice."""
    gaps = [longest_gap(lab)]
    while gaps[-1] >= 2.5 and len(gaps) < 3:
        gaps.append(longest_gap(lab))
    assert gaps[-1] < 2.5, gaps


def longest_gap(lab: Lab) -> float:
    """Seconds between two samples of any node, while one of them is measured."""
    tested = lab.nodes("jp")[0]
    seen: dict[str, list[str]] = {}
    begun = lab.api("POST", f"/api/speed-test/{tested}?wait=0")
    started = time.monotonic()
    while not any(one["id"] == begun["id"] for one in lab.api("GET", f"/api/speed-test/results/{tested}?limit=1")):
        for node in (node for country in lab.status["countries"] for node in lab.nodes(country)):
            at = lab.api("GET", f"/api/nodes/{node}")["metrics"]["last_health_check"]
            if at not in seen.setdefault(node, []):
                seen[node].append(at)
        assert time.monotonic() - started < 60
        time.sleep(0.1)
    gaps = [
        (datetime.fromisoformat(after) - datetime.fromisoformat(before)).total_seconds()
        for times in seen.values()
        for before, after in pairwise(times)
    ]
    print(f"{len(seen)} nodes, {time.monotonic() - started:.1f} s, longest gap {max(gaps, default=0):.2f} s")
    assert len(seen) == 4
    return max(gaps, default=0.0)


def test_the_original_clients_get_the_result_at_once(lab: Lab) -> None:
    node = lab.nodes("jp")[0]
    password = (Path(lab.status["state_dir"]) / "admin.password").read_text().strip()
    done = lab.run(
        "curl", "-sS", "-m", "40", "-u", f"admin:{password}", "-X", "POST", f"{lab.status['api']}/api/speed-test/{node}"
    )
    told = json.loads(done.stdout)
    assert told["download_mbps"] > 1
    assert told["upload_mbps"] > 1


def output(lab: Lab, *names: str) -> str:
    return "".join((Path(lab.status["state_dir"]) / "output" / f"{name}.log").read_text() for name in names)


@pytest.mark.parametrize("options", [["-p"], []])
def test_one_id_in_the_answer_and_both_logs_and_not_at_the_target(lab: Lab, options: list[str]) -> None:
    url = f"http://{world.WHOAMI}/json"
    run = lab.curl(lab.proxy("jp"), url, "-D", "-", "-H", "X-Request-Id: the-clients", *options)
    (name,) = re.findall(r"^X-Request-Id: (\S+)\r?$", run.stdout, re.MULTILINE)
    assert re.fullmatch(r"[0-9A-F:._]+", name)
    seen = json.loads(run.stdout[run.stdout.index('{"ip"') :])
    assert name not in run.stdout[run.stdout.index('{"ip"') :]
    assert ["X-Request-Id", "the-clients"] in seen["headers"]
    wait_for(lambda: f" conn_id={name}\n" in output(lab, "haproxy"), 5, "HAProxy has logged it")
    wait_for(lambda: f'"conn_id":"{name}"' in output(lab, "gateway1", "gateway2"), 5, "the gateway has logged it")


def test_socks_has_the_id_in_both_logs(lab: Lab) -> None:
    before = len(output(lab, "haproxy"))
    assert lab.curl(lab.proxy("gb", scheme="socks5h")).returncode == 0
    wait_for(lambda: "conn_id=" in output(lab, "haproxy")[before:], 5, "HAProxy has logged it")
    names = re.findall(r" conn_id=(\S+)\n", output(lab, "haproxy")[before:])
    wait_for(lambda: any(f'"conn_id":"{name}"' in output(lab, "gateway1", "gateway2") for name in names), 5, "logged")
