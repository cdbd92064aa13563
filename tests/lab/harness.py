"""The running lab as a test sees it: its status, real curl through HAProxy, the API, Docker, the leak counters."""

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> float:
    """Poll until `condition` is true; returns how long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.05)
    return time.monotonic() - started


@dataclass
class Lab:
    """`python -m deploy.cli lab …` and what it prints."""

    state_dir: Path | None = None
    status: dict[str, Any] = field(default_factory=dict)

    def command(self, *arguments: str, timeout: float = 600) -> str:
        place = ["--state-dir", str(self.state_dir)] if self.state_dir else []
        run = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "lab", *arguments, *place],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert run.returncode == 0, f"lab {' '.join(arguments)}: {run.stdout}{run.stderr}"
        return run.stdout

    def refresh(self) -> dict[str, Any]:
        self.status = json.loads(self.command("status", "--json"))
        return self.status

    @property
    def gateways(self) -> list[int]:
        """The ports of the gateways themselves, behind HAProxy."""
        return list(json.loads((Path(self.status["state_dir"]) / "lab.json").read_text())["ports"]["gateways"])

    def usable(self) -> list[int]:
        """How many nodes each gateway can choose."""
        name, told = "vpnexit_gateway_usable_nodes ", []
        for address in self.status["metrics"]["gateway"]:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            told.append(int(float(next(line for line in lines if line.startswith(name)).removeprefix(name))))
        return told

    def leaks(self) -> dict[str, int]:
        return dict(json.loads(self.command("leaks")))

    def docker(self, *arguments: str) -> str:
        run = self.try_docker(*arguments)
        assert run.returncode == 0, f"docker {' '.join(arguments)}: {run.stderr}"
        return run.stdout.strip()

    def try_docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", *arguments],
            env={**os.environ, "DOCKER_HOST": self.status["docker_host"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program on the host."""
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    def in_namespace(self, node: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the host inside a node's network namespace, as root, past everything the exit guards."""
        return self.run("nsenter", self.namespace(f"vpnexit-{node}"), *command)

    def namespace(self, container: str) -> str:
        """The option of nsenter(1) for a container's network namespace."""
        return f"--net=/proc/{self.docker('inspect', '--format', '{{.State.Pid}}', container)}/ns/net"

    def log_of(self, process: str) -> Callable[[], list[dict[str, Any]]]:
        """Reads what a process of the product says in its log from now on."""
        path = Path(self.status["state_dir"]) / "output" / f"{process}.log"
        said = path.stat().st_size

        def lines() -> list[dict[str, Any]]:
            whole = path.read_bytes()[said:].decode(errors="replace").splitlines()
            return [json.loads(line) for line in whole if line.startswith("{") and line.endswith("}")]

        return lines

    # the API

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        password = (Path(self.status["state_dir"]) / "admin.password").read_text().strip()
        request = urllib.request.Request(
            self.status["api"] + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode(),
                "Content-Type": "application/json",
            },
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def nodes(self, country: str) -> list[str]:
        """Ids of the nodes of `country` that control says are running."""
        return sorted(
            node["id"]
            for node in self.api("GET", "/api/nodes")
            if node["country"] == country and node["status"] == "running"
        )

    def settled(self) -> bool:
        """Every pool serves what it wishes, by containers that live, and every gateway knows; nothing is under way."""
        try:
            found = [node for node in self.api("GET", "/api/nodes") if node["status"] not in ("stopped", "error")]
            # A tunnel that is down may be about to get a successor.
            if not all(node["status"] == "running" and node["vpn_connected"] for node in found):
                return False
            nodes = {node["id"] for node in found}
            pools = self.api("GET", "/api/pools")
            usable = self.usable()
        except OSError:  # a part is just being started again
            return False
        alive = self.docker("ps", "--filter", "label=io.vpnexit.fleet", "--format", "{{.Names}}").split()
        return (
            sorted(alive) == sorted(f"vpnexit-{node}" for node in nodes)
            and all(pool["serving"] == pool["desired"] for pool in pools)
            and set(usable) == {len(nodes)}
            and all(self.whoami(country) in row["egress"] for country, row in self.status["countries"].items())
        )

    def wish(self, country: str, nodes: int) -> None:
        """Set a pool's `desired`, unless it is that already."""
        if self.api("GET", f"/api/pools/{country}")["desired"] != nodes:
            self.api("POST", f"/api/pools/{country}/scale", {"nodes": nodes})

    # the proxy

    def proxy(self, country: str = "", *, scheme: str = "http", port: int = 0, extra: str = "") -> str:
        told = self.status["proxy"]
        user = told["user"] + (f"-country-{country}" if country else "") + extra
        return f"{scheme}://{user}:{told['password']}@{told['host']}:{port or told['port']}"

    def curl(self, proxy: str, url: str = "", *options: str, timeout: float = 10) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["curl", "-sS", "-m", str(timeout), "-x", proxy, *options, url or self.status["whoami"]],
            capture_output=True,
            text=True,
            check=False,
        )

    def whoami(self, country: str) -> str:
        """The address whoami sees, or an empty string."""
        run = self.curl(self.proxy(country))
        return run.stdout.strip() if run.returncode == 0 else ""

    def node_of(self, country: str, extra: str = "") -> str:
        """The node the gateway would choose now."""
        run = self.curl(self.proxy(country, extra=extra), "http://vpnexit.internal/")
        return str(json.loads(run.stdout)["node"])


@dataclass
class Traffic:
    """What a steady stream of requests saw: (started, ended, status, body), monotonic seconds."""

    answers: list[tuple[float, float, int, str]] = field(default_factory=list)

    def bad(self) -> list[tuple[float, float, int, str]]:
        return [answer for answer in self.answers if answer[2] != 200]

    def good_after(self, moment: float) -> float:
        """Seconds from `moment` to the end of the first request that began after it and succeeded."""
        return min(ended for started, ended, status, _ in self.answers if started >= moment and status == 200) - moment


@asynccontextmanager
async def traffic(lab: Lab, country: str, clients: int = 4):  # type: ignore[no-untyped-def]
    """Requests to whoami through HAProxy, one after another on each client, until the block ends."""
    told, seen, stop = lab.status["proxy"], Traffic(), asyncio.Event()
    login = base64.b64encode(f"{told['user']}-country-{country}:{told['password']}".encode()).decode()
    url = lab.status["whoami"]
    host = url.removeprefix("http://").rstrip("/")
    request = (
        f"GET {url} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: Basic {login}\r\nConnection: close\r\n\r\n"
    ).encode()

    async def client() -> None:
        while not stop.is_set():
            started, status, body = time.monotonic(), 0, ""
            try:
                async with asyncio.timeout(15):
                    reader, writer = await asyncio.open_connection(told["host"], told["port"])
                    try:
                        writer.write(request)
                        answer = (await reader.read()).decode(errors="replace")
                    finally:
                        writer.close()
                head, _, body = answer.partition("\r\n\r\n")
                length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
                # A head without the whole body is an answer that was cut off.
                whole = length is not None and len(body) == int(length[1])
                status = int(head.split(" ", 2)[1]) if head.startswith("HTTP/1.1 ") and whole else 0
            except (OSError, TimeoutError) as error:
                body = repr(error)
            seen.answers.append((started, time.monotonic(), status, body))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
        try:
            yield seen
        finally:
            stop.set()


@contextmanager
def impaired(lab: Lab, server: str, port: int, *, delay: float = 0.0, loss: float = 0.0) -> Iterator[None]:
    """A relay before a VPN server (`jp1`) that listens at the UDP `port`, for as long as the block lasts: round trips
    take `delay` seconds longer, the share `loss` of the datagrams is lost each way. Tunnels stay up."""
    inside = ["nsenter", lab.namespace(f"vxlab-{server}")]
    options = {"--port": port, "--delay": delay, "--loss": loss}
    command = [*inside, sys.executable, "-m", "deploy.lab.relay"]
    command += [str(word) for pair in options.items() for word in pair]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as relay:
        try:
            assert relay.stdout is not None
            assert relay.stdout.readline() == b"ready\n"
            yield
        finally:
            relay.terminate()
            try:
                relay.wait(10)
            finally:
                relay.kill()
                # A relay that did not end in good order left its rules behind.
                lab.run(*inside, "nft", "delete", "table", "ip", "vxrelay")
