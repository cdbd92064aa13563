"""/api/config/servers: what the provider has."""

from typing import Any

from control.providers import ProviderError
from tests.control.api.conftest import Client


class Listing:
    """A provider that says which servers it has."""

    def __init__(self, servers: dict[str, tuple[str, ...]]) -> None:
        self._servers = servers
        self.trouble = ""

    async def servers(self) -> dict[str, tuple[str, ...]]:
        if self.trouble:
            raise ProviderError(self.trouble)
        return self._servers


async def test_servers_by_country(ask: Client, fleet: Any) -> None:
    provider = fleet.world.provider
    listing = Listing({"us": ("us2.vpn.example", "us1.vpn.example"), "jp": ("jp1.vpn.example",)})
    provider.servers = listing.servers
    assert await ask("GET", "/api/config/servers") == {
        "jp": ["jp1.vpn.example"],
        "us": ["us1.vpn.example", "us2.vpn.example"],
    }
    assert await ask("GET", "/api/config/servers/US") == ["us1.vpn.example", "us2.vpn.example"]
    assert (await ask("GET", "/api/config/servers/de", 404))["reason"] == "not_found"
    listing.trouble = "/v1/servers failed: no answer"
    assert (await ask("GET", "/api/config/servers", 503))["detail"] == "/v1/servers failed: no answer"


async def test_a_provider_without_a_list_says_so(ask: Client) -> None:
    assert "no list of servers" in (await ask("GET", "/api/config/servers", 503))["detail"]
