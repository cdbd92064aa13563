"""The operator's side, on real Docker: command line and API, replacement, restart, orphans."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

import pytest

from tests.lab.harness import ROOT, Lab, wait_for


def vpnexit(lab: Lab, *arguments: str) -> str:
    config = Path(lab.status["state_dir"]) / "config.toml"
    run = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments, "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_list_logs_and_pools_on_the_command_line(lab: Lab) -> None:
    listed = json.loads(vpnexit(lab, "nodes", "list", "--json"))
    running = [node for node in listed if node["status"] == "running"]
    assert sorted(node["country"] for node in running) == ["gb", "jp", "jp", "us"]
    for node in running:
        assert node["exit_ip"] in lab.status["countries"][node["country"]]["egress"]
        wait_for(lambda one=node["id"]: _well(lab, one), 10, f"{node['id']} is sampled")  # once a second
    assert '"event": "tunnel"' in vpnexit(lab, "nodes", "logs", running[0]["id"])
    assert "jp" in vpnexit(lab, "pools", "list")


def test_stop_drains_one_node_and_start_brings_another(lab: Lab) -> None:
    victim = lab.nodes("jp")[0]
    vpnexit(lab, "nodes", "stop", victim)
    wait_for(lambda: victim not in lab.nodes("jp"), 60, "stopped")
    assert lab.api("GET", "/api/pools/jp")["desired"] == 1
    assert len(lab.nodes("jp")) == 1
    assert lab.whoami("jp") in lab.status["countries"]["jp"]["egress"]
    wait_for(lambda: f"vpnexit-{victim}" not in lab.docker("ps", "--all", "--format", "{{.Names}}"), 60, "removed")
    vpnexit(lab, "nodes", "start", "jp")
    wait_for(lambda: len(lab.nodes("jp")) == 2, 30 * 2, "started")
    assert lab.api("GET", "/api/pools/jp")["desired"] == 2


def test_a_pool_is_removed_once_its_nodes_are_gone_and_comes_back(lab: Lab) -> None:
    before = lab.api("GET", "/api/pools/gb")
    with pytest.raises(urllib.error.HTTPError) as refused:
        lab.api("DELETE", "/api/pools/gb")
    assert json.load(refused.value)["detail"].startswith("pool gb wants 1 nodes: set desired to 0 first")
    vpnexit(lab, "pools", "scale", "gb", "0", "--wait", "--timeout", "50")
    assert vpnexit(lab, "pools", "remove", "gb") == "the pool of gb is removed\n"
    copy = Path(lab.status["state_dir"]) / "fleet.json"
    wait_for(lambda: all(p["country"] != "gb" for p in json.loads(copy.read_text())["pools"]), 10, "gone from the copy")
    assert "gb" not in [pool["country"] for pool in lab.api("GET", "/api/pools")]
    kept = ("desired", "min", "max", "strategy", "provider", "protocol", "fallback")
    lab.api("PUT", "/api/pools/gb", {name: before[name] for name in kept})
    wait_for(lambda: len(lab.nodes("gb")) == 1, 60, "serving again")


def test_two_nodes_never_share_a_server(lab: Lab) -> None:
    servers = [node["vpn_server"] for node in lab.api("GET", "/api/nodes") if node["status"] == "running"]
    assert len(set(servers)) == len(servers)


def test_wrong_requests_are_told_what_is_wrong(lab: Lab) -> None:
    for method, path, body, status in (
        ("POST", "/api/nodes/xx/start", None, 400),
        ("PUT", "/api/pools/jp", {"desired": 99}, 400),
        ("PUT", "/api/pools/jp", {"desired": 2, "version": 0}, 409),
        ("GET", "/api/nodes/jp000000", None, 404),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            lab.api(method, path, body)
        told = json.load(refused.value)
        assert (refused.value.code, told["status"]) == (status, status), told
        assert len(told["detail"]) > 10


def test_control_killed_while_it_creates_leaves_no_orphan(lab: Lab) -> None:
    victim = lab.nodes("jp")[0]
    lab.docker("kill", f"vpnexit-{victim}")
    processes = lab.command("status")
    control = int(processes.split("control ")[1].split(",")[0])
    # In the middle of the replacement, at a moment that differs from run to run.
    time.sleep(0.1 + (time.time_ns() % 100) / 250)
    os.kill(control, signal.SIGKILL)
    wait_for(lab.settled, 60, "settled by a new control")

    def no_orphan() -> bool:
        names = lab.docker("ps", "--all", "--filter", "label=io.vpnexit.fleet", "--format", "{{.Names}}").split()
        return sorted(names) == sorted(f"vpnexit-{node}" for c in lab.status["countries"] for node in lab.nodes(c))

    wait_for(no_orphan, 20, "the dead one is removed, and nothing else is there")


def test_an_orphan_goes_and_a_foreign_container_stays(lab: Lab) -> None:
    fleet = lab.docker(
        "inspect", "--format", '{{index .Config.Labels "io.vpnexit.fleet"}}', f"vpnexit-{lab.nodes('us')[0]}"
    )
    run = ("run", "--detach", "--entrypoint", "sleep", "--network", "none")
    orphan = lab.docker(
        *run, "--label", f"io.vpnexit.fleet={fleet}", "--label", "io.vpnexit.node=jp00dead", "vpnexit-exit", "600"
    )
    foreign = lab.docker(*run, "vpnexit-exit", "600")
    try:
        wait_for(lambda: orphan[:12] not in lab.docker("ps", "--all", "--quiet"), 20, "the orphan is removed")
        assert foreign[:12] in lab.docker("ps", "--quiet")
    finally:
        lab.docker("rm", "--force", foreign)


def test_no_secret_is_where_others_can_read_it(lab: Lab) -> None:
    """Environment, labels, command lines, logs and the API tell no credential and no key."""
    state = Path(lab.status["state_dir"])
    secrets = {"token": (state / "servers/pki/token").read_text().strip()}
    secrets["proxy password"] = lab.status["proxy"]["password"]
    secrets["admin password"] = (state / "admin.password").read_text().strip()
    for path in (state / "nodes").rglob("*"):
        if path.name == "wg.key":
            secrets["WireGuard key"] = path.read_text().strip()
        elif path.name == "auth.txt":
            secrets["OpenVPN user"], secrets["OpenVPN password"] = path.read_text().split()
    assert len(secrets) == 6
    nodes = [node for country in lab.status["countries"] for node in lab.nodes(country)]
    shown = {
        "inspect": lab.docker("inspect", *(f"vpnexit-{node}" for node in nodes)),
        "container logs": "".join(_logs(lab, node) for node in nodes),
        "command lines": "".join(lab.docker("top", f"vpnexit-{node}", "-eo", "pid,args") for node in nodes),
        "processes": _command_lines(),
        "API": json.dumps([lab.api("GET", f"/api/{what}") for what in ("nodes", "pools", "users", "health")]),
        **{path.name: path.read_text(errors="replace") for path in (state / "output").glob("*.log")},
    }
    found = {(what, where) for what, secret in secrets.items() for where, text in shown.items() if secret in text}
    assert not found


@pytest.mark.parametrize("country", ["jp", "us", "gb"])
def test_an_exit_runs_with_the_least_it_needs(lab: Lab, country: str) -> None:
    node = lab.nodes(country)[0]
    told = json.loads(lab.docker("inspect", f"vpnexit-{node}"))[0]["HostConfig"]
    assert told["CapDrop"] == ["ALL"]
    assert sorted(cap.removeprefix("CAP_") for cap in told["CapAdd"]) == ["NET_ADMIN", "SETGID", "SETUID"]
    assert told["ReadonlyRootfs"] is True
    assert told["Privileged"] is False
    for line in lab.docker("top", f"vpnexit-{node}", "-eo", "pid,uid").splitlines()[1:]:
        pid, uid = line.split()
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):  # a tool that PID 1 ran has ended
            continue
        effective = int(next(row.split()[1] for row in status.splitlines() if row.startswith("CapEff")), 16)
        assert (uid == "0") == (effective != 0), status
        assert "NoNewPrivs:\t1" in status


def _well(lab: Lab, node: str) -> bool:
    shown = json.loads(vpnexit(lab, "nodes", "show", node, "--json"))
    return bool(shown["vpn_connected"]) and shown["health_status"] == "healthy"


def _logs(lab: Lab, node: str) -> str:
    run = subprocess.run(
        ["docker", "logs", f"vpnexit-{node}"],
        env={**os.environ, "DOCKER_HOST": lab.status["docker_host"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return run.stdout + run.stderr


def _command_lines() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)
