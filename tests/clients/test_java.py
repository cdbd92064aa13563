"""Java: HttpClient, and URLConnection told by system properties."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.world import HOST, NODES, PASSWORD, SITE, World

SOURCE = Path(__file__).parent / "java" / "Client.java"
PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
# Without these Java sends no Basic password to a proxy for https:// (net.properties says why).
BASIC = "-Djdk.http.auth.tunneling.disabledSchemes="
Client = Callable[..., str]
both = pytest.mark.parametrize("url", [PLAIN, TLS])


@pytest.fixture(scope="module")
def client(needs: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Client:
    needs("java", "javac")
    classes = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-d", classes, SOURCE], check=True, capture_output=True, timeout=100)

    def run(options: list[str], *arguments: object) -> str:
        quick = ["-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:+UseSerialGC"]
        command = ["java", *quick, *options, "-cp", classes, "Client", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout.decode().strip()

    return run


@both
def test_http_client(world: World, client: Client, url: str) -> None:
    answer = client([BASIC], "http", url, world.ca, world.name("jp"), PASSWORD, HOST, world.closed.port)
    assert answer == f"200 {NODES['jp']}"


def test_http_client_with_a_wrong_password(world: World, client: Client) -> None:
    answer = client([BASIC], "http", PLAIN, world.ca, world.name("jp"), "wrong", HOST, world.refusing.port)
    assert "IOException: too many authentication attempts" in answer  # it tries three times by itself


def properties(port: int) -> list[str]:
    return [f"-D{name}.proxy{what}" for name in ("http", "https") for what in (f"Host={HOST}", f"Port={port}")]


@both
def test_http_by_property(world: World, client: Client, url: str) -> None:
    options = [BASIC, *properties(world.closed.port)]
    assert client(options, "url", url, world.ca, world.name("jp"), PASSWORD) == f"200 {NODES['jp']}"


def socks(port: int) -> list[str]:
    return [f"-DsocksProxyHost={HOST}", f"-DsocksProxyPort={port}"]


@both
def test_socks_by_property(world: World, client: Client, url: str) -> None:
    answer = client(socks(world.closed.port), "url", url, world.ca, world.name("de"), PASSWORD)
    assert answer == f"200 {NODES['de']}"


def test_socks_without_a_login(world: World, client: Client) -> None:
    """Java then sends the name of the system's user, and an empty password."""
    assert client(socks(world.ports.port), "url", PLAIN, world.ca) == f"200 {NODES['de']}"


def test_socks_with_a_wrong_password(world: World, client: Client) -> None:
    answer = client(socks(world.refusing.port), "url", PLAIN, world.ca, world.name("de"), "wrong")
    assert answer == "java.net.SocketException: SOCKS : authentication failed"
