"""/api/config/servers: the VPN servers that nodes can be started on, as the provider has them."""

from typing import Annotated, Protocol, runtime_checkable

from pydantic import Field

from control.api.bodies import Empty, NoQuery
from control.api.context import Context
from control.api.errors import ApiError
from control.api.table import Call, Table
from control.providers import ProviderError

table = Table("configuration")

Names = Annotated[list[str], Field(description="host names, sorted")]


@runtime_checkable
class ListsServers(Protocol):
    """A provider that can say which servers it has."""

    async def servers(self) -> dict[str, tuple[str, ...]]:
        """Host names of all usable servers by country. Raises ProviderError."""
        ...


@table.add("GET", "/api/config/servers", "servers.all", answer=dict[str, Names])
async def all_servers(call: Call[Empty, NoQuery]) -> dict[str, list[str]]:
    """VPN servers of every country"""
    found = await _servers(call.here)
    return {country: sorted(found[country]) for country in sorted(found)}


@table.add("GET", "/api/config/servers/{country}", "servers.country", answer=Names, refusals=(404,))
async def servers_of(call: Call[Empty, NoQuery]) -> list[str]:
    """VPN servers of one country"""
    country = call.path["country"]
    found = (await _servers(call.here)).get(country)
    if not found:
        raise ApiError(404, "not_found", f"the provider has no servers in {country}")
    return sorted(found)


async def _servers(here: Context) -> dict[str, tuple[str, ...]]:
    provider = here.providers.get(here.default_provider)
    if provider is None or here.engine is None:
        return {}
    if not isinstance(provider, ListsServers):
        raise ProviderError(f"provider {here.default_provider} has no list of servers")
    return await provider.servers()
