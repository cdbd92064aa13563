"""The product as it runs, for measuring: Redis, gateway, collector, scorer, and exits.

Everything that an operator has on is on: log-in, a pool to choose from by scores, the address check, metrics, a log
line for every connection.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from control.passwords import hash_password
from deploy import ports, redis_binary
from gateway import stock
from health.config import RedisSettings
from health.model import Node, NodeKind, NodeStatus, Pool, Strategy, User
from health.registry import Registry
from tests.bench.children import PROXY_UID, BenchError, Child, leaf
from tests.bench.clients import PASSWORD, USER, route
from tests.bench.exits import COUNTRY, Exits, Tools

ROOT = Path(__file__).parent.parent.parent
OURS = "gateway + agent"
MACHINE = "bench"
_EXITS = 4
STOCK = _EXITS * stock.LARGEST
"""How many sockets a worker may have in stock."""


class Product:
    """The whole of it, run from the checkout `tree`. `address` takes proxy connections."""

    def __init__(
        self,
        tools: Tools,
        directory: Path,
        *,
        workers: int = 1,
        origins: int = 1,
        tree: Path = ROOT,
        name: str = OURS,
        user: int = PROXY_UID,
    ) -> None:
        self.name = name
        self._user = user
        self._stack = contextlib.ExitStack()
        self._tools = tools
        self.tree = tree
        self._environment = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        self.compiled = _compiled(tools.python, self._environment, tree)
        self._directory = Path(tempfile.mkdtemp(dir=directory))
        self._directory.chmod(0o777)
        self.port, self.metrics_port = ports.free(), ports.free()
        try:
            self._start(workers, origins)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Product":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def route(self, speak: str, origin: int = 0, node: str = "") -> list[str]:
        """The load generator's words for a way through the pool, or through one node, to one of the origins."""
        want = f"node-{node}" if node else f"country-{COUNTRY}"
        return route(speak, self.address, self.exits.targets[origin], f"{USER}-{want}")

    @property
    def gateway_roots(self) -> list[int]:
        return [self.gateway.pid]

    @property
    def agent_roots(self) -> list[int]:
        return [agent.pid for agent in self.exits.agents]

    @property
    def worker(self) -> int:
        """The process that carries, where there is one worker."""
        return leaf(self.gateway_roots)

    def _start(self, workers: int, origins: int) -> None:
        state = self._directory / "state"
        state.mkdir()
        os.chown(state, self._user, self._user)
        redis = state / "redis.sock"
        self._child([redis_binary.find(), "--port", "0", "--unixsocket", redis, "--save", "", "--dir", state]).wait_for(
            redis.exists
        )
        self.exits = Exits(
            self._tools, self._directory, self._environment, group=self._user, count=_EXITS, origins=origins
        )
        self._stack.callback(self.exits.close)
        url = f"unix://{redis}"
        asyncio.run(_record(url, self.exits))
        config = self._directory / "vpnexit.toml"
        config.write_text(self._settings(url, state, workers))
        for part in ("collector", "scorer"):
            self._child(self._vpnexit(part, config))
        self.gateway = self._child(self._vpnexit("gateway", config))
        self.gateway.wait_for(self._ready)
        self.gateway.wait_for(self._carries)

    def _child(self, command: Sequence[str | Path]) -> Child:
        child = Child(command, self._directory, user=self._user, environment=self._environment)
        self._stack.callback(child.close)
        return child

    def _vpnexit(self, part: str, config: Path) -> list[str | Path]:
        return [self._tools.python, "-P", "-m", "deploy.cli", part, "--config", config]

    def _settings(self, url: str, state: Path, workers: int) -> str:
        return f"""machine = "{MACHINE}"
state_dir = "{state}"
[redis]
url = "{url}"
[gateway]
listen = ["{self.address}"]
metrics_listen = "127.0.0.1:{self.metrics_port}"
require_auth = true
allow_targets = ["127.0.0.0/8"]
{_workers(self.tree, workers)}
"""

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _carries(self) -> bool:
        done = self._tools.load.run("connect", *self.route("socks"), "-count", "20", "-clients", "1")
        return bool(done["failed"] == 0)


def _compiled(python: Path, environment: dict[str, str], tree: Path) -> bool:
    """Compile the gateway of `tree`, where it can be; whether `python` will run it compiled."""
    subprocess.run([sys.executable, "-m", "deploy.compile"], cwd=tree, capture_output=True, check=False)
    asked = [python, "-P", "-c", "from gateway import compiled; print(compiled.find() is not None)"]
    done = subprocess.run(asked, env=environment, cwd="/", capture_output=True, text=True, check=False)
    return done.stdout.strip() == "True"


def _workers(tree: Path, count: int) -> str:
    # A checkout from before there were workers has one, and no setting for it.
    if "workers:" in (tree / "gateway/config.py").read_text():
        return f"workers = {count}"
    if count > 1:
        raise BenchError(f"{count} workers are needed, and the gateway in {tree} has one")
    return ""


async def _record(url: str, exits: Exits) -> None:
    registry = Registry.open(RedisSettings(url=url, timeout=5))
    for node in exits.ids:
        await registry.put_node(
            Node(
                id=node,
                country=COUNTRY,
                kind=NodeKind.VPN,
                machine=MACHINE,
                status=NodeStatus.SERVING,
                agent=str(exits.socket(node)),
                generation=1,
                exit_ip="192.0.2.1",
            )
        )
    await registry.put_pool(Pool(country=COUNTRY, desired=len(exits.ids), strategy=Strategy.HEALTH_SCORE))
    await registry.put_user(User(name=USER, password_hash=await hash_password(PASSWORD)))
    await registry.begin_epoch()
    await registry.close()
