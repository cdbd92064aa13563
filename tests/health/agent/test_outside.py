"""How an exit looks from outside, asked of a stand-in on loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from health.agent import outside
from health.agent.insights import UnknownError, source
from health.agent.outside import Outside, ask

GOOD = b'HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{"ip":"198.18.0.9","country_code":"JP"}'


class Service:
    """Answers every connection with `answer`; a silent one with nothing."""

    def __init__(self) -> None:
        self.answer = GOOD
        self.asked: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            if not self.answer:
                await reader.read()
            await writer.drain()
        finally:
            writer.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/helpers/ips/insights"


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()


async def nobody(_name: str) -> tuple[str, ...]:
    return ()


async def test_it_is_asked_by_number_and_by_name(service: Service) -> None:
    assert await ask(source(service.url), nobody) == ("198.18.0.9", "jp")
    assert service.asked[0].startswith(b"GET /v1/helpers/ips/insights HTTP/1.0\r\nHost: 127.0.0.1\r\n")
    names: list[str] = []

    async def resolve(name: str) -> tuple[str, ...]:
        names.append(name)
        return ("127.0.0.1",)

    url = service.url.replace("127.0.0.1", "api.example")
    assert await ask(source(url), resolve) == ("198.18.0.9", "jp")
    assert names == ["api.example"]
    assert b"\r\nHost: api.example\r\n" in service.asked[1]
    with pytest.raises(UnknownError, match=r"api\.example is not resolved"):
        await ask(source(url), nobody)


async def test_silence_and_floods_are_bounded(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_WITHIN_S", 0.2)
    service.answer = b""
    with pytest.raises(UnknownError, match="in time"):
        await ask(source(service.url), nobody)
    monkeypatch.setattr(outside, "_WITHIN_S", 20)
    service.answer = b"HTTP/1.0 200 OK\r\n\r\n" + b" " * (1 << 22)
    with pytest.raises(UnknownError, match="not understood"):
        await ask(source(service.url), nobody)


async def test_nobody_there() -> None:
    with pytest.raises(UnknownError, match="not reached"):
        await ask(source("http://127.0.0.1:9/"), nobody)


async def test_once_a_generation_and_again_after_a_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_FIRST_RETRY_S", 0.05)
    seen = Outside(lambda: 0.5)
    service.answer = b"HTTP/1.0 503 No\r\n\r\n"
    seen.renew(service.url, nobody)
    await _true(lambda: len(service.asked) >= 2)
    assert (seen.address, seen.country) == ("", "")
    service.answer = GOOD
    await _true(lambda: seen.address)
    assert (seen.address, seen.country) == ("198.18.0.9", "jp")
    asked = len(service.asked)
    await asyncio.sleep(0.3)
    assert len(service.asked) == asked, "an hour's rest"
    seen.renew(service.url, nobody)
    assert (seen.address, seen.country) == ("", "")
    await _true(lambda: seen.address)
    seen.renew("", nobody)
    assert seen.address == ""
    seen.close()


async def _true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
