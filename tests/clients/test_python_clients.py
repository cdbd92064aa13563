"""The HTTP libraries of Python: urllib, requests, httpx, aiohttp and aiohttp-socks."""

import gc
import ssl
import urllib.error
import urllib.request

import aiohttp
import httpx
import pytest
import requests
from aiohttp_socks import ProxyConnector, ProxyError

from tests.clients.world import HOST, NODES, SITE, World

PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
WRONG = "user name or password is wrong"
both = pytest.mark.parametrize("url", [PLAIN, TLS])


def proxies(proxy: str) -> dict[str, str]:
    return {"http": proxy, "https": proxy}


def tls(world: World) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=world.ca)


def urllib_opener(world: World, proxy: str) -> urllib.request.OpenerDirector:
    https = urllib.request.HTTPSHandler(context=tls(world))
    return urllib.request.build_opener(urllib.request.ProxyHandler(proxies(proxy)), https)


@both
def test_urllib(world: World, url: str) -> None:
    with urllib_opener(world, world.url("http", "jp")).open(url, timeout=30) as answer:
        assert answer.read().decode().strip() == NODES["jp"]


def test_urllib_with_a_wrong_password(world: World) -> None:
    opener = urllib_opener(world, world.url("http", "jp", world.refusing, "wrong"))
    with pytest.raises(urllib.error.HTTPError) as plain:
        opener.open(PLAIN, timeout=30)
    with plain.value as answer:
        assert (answer.code, WRONG in answer.read().decode()) == (407, True)
    with pytest.raises(urllib.error.URLError, match="407 Proxy Authentication Required"):
        opener.open(TLS, timeout=30)


@both
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_requests(world: World, scheme: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if scheme == "socks5":  # resolves here
        url = url.replace(SITE, HOST)
    answer = requests.get(url, proxies=proxies(world.url(scheme, "de")), verify=world.ca, timeout=30)
    assert answer.text.strip() == NODES["de"]


def test_requests_by_socks4(world: World) -> None:
    # Without a password, which SOCKS4 does not send, requests would leave out the name as well.
    proxy = world.url("socks4a", "de", world.open)
    assert requests.get(PLAIN, proxies=proxies(proxy), timeout=30).text.strip() == NODES["de"]


def test_requests_keeps_one_connection_for_many_requests(world: World) -> None:
    with requests.Session() as session:
        session.proxies = proxies(world.url("http", "jp"))
        for _ in range(3):
            assert session.get(PLAIN, timeout=30).text.strip() == NODES["jp"]
        (pool,) = session.get_adapter(PLAIN).proxy_manager.values()
        assert pool.connection_from_url(f"http://{HOST}:{world.closed.port}").num_connections <= 1


def test_requests_with_a_wrong_password(world: World) -> None:
    http = proxies(world.url("http", "jp", world.refusing, "wrong"))
    answer = requests.get(PLAIN, proxies=http, timeout=30)
    assert (answer.status_code, WRONG in answer.text) == (407, True)
    with pytest.raises(requests.exceptions.ProxyError, match="407 Proxy Authentication Required"):
        requests.get(TLS, proxies=http, timeout=30)
    socks = proxies(world.url("socks5h", "jp", world.refusing, "wrong"))
    with pytest.raises(requests.exceptions.ConnectionError, match="SOCKS5 authentication failed"):
        requests.get(PLAIN, proxies=socks, timeout=30)


@both
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h"])
def test_httpx(world: World, scheme: str, url: str) -> None:
    with httpx.Client(proxy=world.url(scheme, "jp"), verify=tls(world), timeout=30) as client:
        assert client.get(url).text.strip() == NODES["jp"]


# httpx leaves the socket of a refused SOCKS log-in to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_httpx_with_a_wrong_password(world: World) -> None:
    with httpx.Client(proxy=world.url("http", "jp", world.refusing, "wrong"), verify=tls(world), timeout=30) as client:
        answer = client.get(PLAIN)
        assert (answer.status_code, WRONG in answer.text) == (407, True)
        with pytest.raises(httpx.ProxyError, match="407 Proxy Authentication Required"):
            client.get(TLS)
    with (
        httpx.Client(proxy=world.url("socks5", "jp", world.refusing, "wrong"), timeout=30) as client,
        pytest.raises(httpx.ProxyError, match="Invalid username/password"),
    ):
        client.get(PLAIN)
    gc.collect()


@both
async def test_aiohttp(world: World, url: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, proxy=world.url("http", "de"), ssl=tls(world)) as answer,
    ):
        assert (await answer.text()).strip() == NODES["de"]


async def test_aiohttp_with_a_wrong_password(world: World) -> None:
    proxy = world.url("http", "jp", world.refusing, "wrong")
    async with aiohttp.ClientSession() as session:
        async with session.get(PLAIN, proxy=proxy) as answer:
            assert (answer.status, WRONG in await answer.text()) == (407, True)
        with pytest.raises(aiohttp.ClientHttpProxyError, match="407"):
            await session.get(TLS, proxy=proxy)


@both
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_aiohttp_socks(world: World, scheme: str, url: str) -> None:
    connector = ProxyConnector.from_url(world.url(scheme, "jp"), rdns=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url, ssl=tls(world)) as answer:
        assert (await answer.text()).strip() == NODES["jp"]


@both
async def test_aiohttp_socks4(world: World, url: str) -> None:
    connector = ProxyConnector.from_url(world.url("socks4", "de", world.open), rdns=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url, ssl=tls(world)) as answer:
        assert (await answer.text()).strip() == NODES["de"]


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_aiohttp_socks_with_a_wrong_password(world: World, scheme: str) -> None:
    connector = ProxyConnector.from_url(world.url(scheme, "jp", world.refusing, "wrong"), rdns=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(ProxyError, match=r"407|authentication fail"):
            await session.get(PLAIN)
