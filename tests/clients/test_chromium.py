"""Chromium, as people use it: pages, WebSockets and passwords, by HTTP and SOCKS."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.chromium import Chromium
from tests.clients.world import HOST, NODES, PASSWORD, SITE, World

PNG = b"\x89PNG\r\n\x1a\n"
PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
SOCKET = """new Promise((done, failed) => {{
    const ws = new WebSocket("{}")
    ws.onmessage = (message) => done(message.data)
    ws.onerror = () => failed("refused")
}})"""


@pytest.fixture(autouse=True)
def _installed(needs: Callable[..., None]) -> None:
    needs("chromium")


def test_with_user_name_and_password(world: World, tmp_path: Path) -> None:
    with Chromium(tmp_path / "profile", f"http://{HOST}:{world.closed.port}") as browser:
        browser.credentials = world.name("jp"), PASSWORD
        assert browser.open(PLAIN).strip() == NODES["jp"]
        assert browser.asked == 1
        assert browser.open(TLS).strip() == NODES["jp"]
        assert browser.run(SOCKET.format(f"wss://{SITE}/ws")) == NODES["jp"]
        picture = browser.screenshot()
        assert picture.startswith(PNG)
        assert len(picture) > 1000


@pytest.mark.parametrize("scheme", ["http", "socks5", "socks4"])
def test_by_the_port_of_a_country(world: World, tmp_path: Path, scheme: str) -> None:
    # SOCKS4 has no names: there Chromium resolves them, with what it is told here.
    here = f"--host-resolver-rules=MAP {SITE} {HOST}"
    with Chromium(tmp_path / "profile", f"{scheme}://{HOST}:{world.ports.port}", here) as browser:
        assert browser.open(PLAIN).strip() == NODES["de"]
        assert browser.open(TLS).strip() == NODES["de"]
        assert browser.run(SOCKET.format(f"wss://{SITE}/ws")) == NODES["de"]
        assert browser.asked == 0


def test_a_wrong_password(world: World, tmp_path: Path) -> None:
    with Chromium(tmp_path / "profile", f"http://{HOST}:{world.refusing.port}") as browser:
        browser.credentials = world.name("jp"), "wrong"
        shown = browser.open(PLAIN)
        assert browser.asked == 2  # without, with the wrong one; the third time nobody answers
        assert "user name or password is wrong" in shown
        assert browser.open(TLS) != NODES["jp"]
