"""Names of VPN servers: looked up here, once, and what it takes for an address to be gone."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from control.providers import ProviderError
from control.providers.lookups import AGAIN_S, GONE_S, LOOKS, Lookups, resolve


class Dns:
    def __init__(self) -> None:
        self.answers: dict[str, list[str] | Exception] = {"vpn.example": ["198.18.0.1", "198.18.0.2"]}
        self.asked: list[str] = []
        self.now = 0.0

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        found = self.answers[host]
        if isinstance(found, Exception):
            raise found
        return found

    def lookups(self) -> Lookups:
        return Lookups(0.2, lambda: self.now, self.resolve)


@pytest.fixture
def dns() -> Dns:
    return Dns()


async def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


async def test_addresses_that_a_server_can_have(dns: Dns) -> None:
    dns.answers["vpn.example"] = ["127.0.0.1", "0.0.0.0", "198.18.0.1", "224.0.0.1", "198.18.0.1", "::1", "10.0.0.9"]
    assert await dns.lookups().addresses("vpn.example") == ["198.18.0.1", "10.0.0.9"]
    dns.answers["vpn.example"] = ["127.0.0.1"]
    with pytest.raises(ProviderError, match=r"vpn\.example: it has no IPv4 address"):
        await dns.lookups().addresses("vpn.example")


async def test_trouble_is_told_in_time(dns: Dns) -> None:
    dns.answers["vpn.example"] = OSError(-2, "Name or service not known")
    with pytest.raises(ProviderError, match=r"vpn\.example: Name or service not known"):
        await dns.lookups().addresses("vpn.example")

    async def silent(_: str) -> list[str]:
        await asyncio.sleep(30)
        return []

    with pytest.raises(ProviderError, match="could not be looked up in time"):
        await Lookups(0.05, resolve=silent).addresses("vpn.example")


async def test_this_machines_resolver_is_asked() -> None:
    assert await resolve("127.0.0.1") == ["127.0.0.1"]


async def test_an_address_is_gone_after_an_hour_and_several_looks(dns: Dns) -> None:
    lookups = dns.lookups()
    await lookups.addresses("vpn.example")
    dns.answers["vpn.example"] = ["198.18.0.2", "198.18.0.3"]
    for number in range(1, 7):
        dns.now = number * AGAIN_S
        await lookups.addresses("vpn.example")
        assert not lookups.gone("vpn.example", "198.18.0.2")
        assert lookups.gone("vpn.example", "198.18.0.1") is (dns.now >= GONE_S)


async def test_a_round_robin_moves_nobody(dns: Dns) -> None:
    lookups = dns.lookups()
    pool = [f"198.18.0.{number}" for number in range(6)]
    for number in range(30):
        dns.now = number * AGAIN_S
        dns.answers["vpn.example"] = [pool[number % 6]]
        await lookups.addresses("vpn.example")
        assert not any(lookups.gone("vpn.example", address) for address in pool)


async def test_after_a_restart_an_address_has_its_hour(dns: Dns) -> None:
    lookups = dns.lookups()
    assert not lookups.gone("vpn.example", "198.18.0.77")
    for number in range(1, LOOKS + 1):
        dns.now = float(number)
        await lookups.addresses("vpn.example")
    assert not lookups.gone("vpn.example", "198.18.0.77")
    dns.now = GONE_S
    await lookups.addresses("vpn.example")
    assert lookups.gone("vpn.example", "198.18.0.77")


async def test_nothing_is_gone_while_names_are_not_answered(dns: Dns) -> None:
    lookups = dns.lookups()
    await lookups.addresses("vpn.example")
    dns.answers["vpn.example"] = OSError(-3, "Temporary failure in name resolution")
    for number in range(1, 20):
        dns.now = number * AGAIN_S
        lookups.look_behind(["vpn.example"])
        await until(lambda seen=number + 1: len(dns.asked) == seen)
        assert not lookups.gone("vpn.example", "198.18.0.1")
        await asyncio.sleep(0)
    await lookups.close()


async def test_looking_behind_is_bounded_in_time(dns: Dns) -> None:
    lookups = dns.lookups()
    for _ in range(5):
        lookups.look_behind(["vpn.example"])
        await until(lambda: dns.asked)
    assert dns.asked == ["vpn.example"]
    await lookups.close()
    await lookups.close()


async def test_a_resolver_that_hangs_holds_up_no_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        answered.wait(10)
        raise OSError("no answer")

    monkeypatch.setattr("socket.getaddrinfo", hang)
    lookups = Lookups(0.05)
    try:
        for number in range(40):
            with pytest.raises(ProviderError, match="could not be looked up in time"):
                await lookups.addresses(f"vpn{number}.example")
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        answered.set()
