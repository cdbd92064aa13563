"""Node: undici's ProxyAgent (fetch and WebSocket), and requests by hand with node:http."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.world import NODES, SITE, World

HERE = Path(__file__).parent / "node"
PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
Client = Callable[..., dict[str, object]]


@pytest.fixture(scope="module")
def client(world: World, needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Runs client.mjs, beside what package-lock.json names."""
    needs("node", "npm")
    home = tmp_path_factory.mktemp("node")
    for file in HERE.iterdir():
        shutil.copy(file, home)
    install = ["npm", "ci", "--prefer-offline", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=home, check=True, capture_output=True, timeout=100)

    def run(kind: str, proxy: str, url: str) -> dict[str, object]:
        command = ["node", "client.mjs", kind, proxy, url, world.ca]
        return dict(json.loads(subprocess.run(command, cwd=home, check=True, capture_output=True, timeout=60).stdout))

    return run


@pytest.mark.parametrize(
    ("kind", "url"),
    [("undici", PLAIN), ("undici", TLS), ("http", PLAIN), ("connect", TLS)],
)
def test_fetches(world: World, client: Client, kind: str, url: str) -> None:
    for country, node in NODES.items():
        assert client(kind, world.url("http", country), url) == {"status": 200, "body": f"{node}\n"}


def test_websocket(world: World, client: Client) -> None:
    assert client("websocket", world.url("http", "jp"), f"ws://{SITE}:8080/ws") == {"status": 101, "body": NODES["jp"]}


def test_a_wrong_password(world: World, client: Client) -> None:
    proxy = world.url("http", "jp", world.refusing, "wrong")
    assert "407" in str(client("undici", proxy, TLS)["error"])
    plain = client("http", proxy, PLAIN)
    assert (plain["status"], "user name or password is wrong" in str(plain["body"])) == (407, True)
    assert client("connect", proxy, TLS) == {"status": 407, "body": ""}
