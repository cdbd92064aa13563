"""The provider's countries and servers, as last told, in memory and on disk.

An API that is down, slow or out of its mind keeps no node from starting once it has answered, not even after a restart.
What is on disk holds nothing secret.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog

from control.providers import ProviderError, Wish
from control.providers.api import Api
from control.providers.files import write_private
from control.providers.kept import Kept
from control.providers.servers import (
    TECHNOLOGY,
    Land,
    Server,
    land_as_told,
    parse_countries,
    parse_servers,
    server_as_told,
)

log = structlog.get_logger()

RECOMMENDED = 20
PATIENCE = 4.0
"""The whole list is some 20 MB: so many times longer than other answers it may take."""
MAX_COPY = 64 * 1024 * 1024
T = TypeVar("T")


class Catalogue:
    """`directory`: where copies are kept, or None for nowhere. `clock` is monotonic, `wall` Unix seconds."""

    def __init__(
        self,
        api: Api,
        directory: Path | None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        lands, servers = (_Copy(directory and directory / name) for name in ("countries.json", "servers.json"))
        self._lands: Kept[Land] = Kept(
            "list of countries",
            self._ask_lands,
            lambda land: land.code,
            lambda: lands.load(parse_countries),
            lambda at, told: lands.save(at, [land_as_told(land) for land in told]),
            clock,
            wall,
        )
        self._servers: Kept[Server] = Kept(
            "list of servers",
            self._ask_servers,
            lambda server: server.hostname,
            lambda: servers.load(parse_servers),
            lambda at, told: servers.save(at, [server_as_told(server) for server in told]),
            clock,
            wall,
        )
        self._wall = wall
        self._recommended: dict[str, tuple[float, Server]] = {}

    async def lands(self) -> Mapping[str, Land]:
        """The countries, by code. Raises ProviderError where none were ever told."""
        return await self._lands.get()

    async def servers(self) -> Mapping[str, Server]:
        """Every server, else those that were ever recommended, by name. Raises ProviderError where none were."""
        try:
            return await self._servers.get()
        except ProviderError:
            if not self._recommended:
                raise
            return {hostname: server for hostname, (_, server) in self._recommended.items()}

    def listed(self) -> Mapping[str, Server]:
        """The servers of the last list that was believed, by name; fetches a newer one behind it when that is due."""
        self._servers.behind()
        return self._servers.known

    @property
    def listed_at(self) -> float:
        """When that list was told (Unix seconds)."""
        return self._servers.at

    async def find(self, hostname: str) -> Server | None:
        """The server of that name, as last told. Raises ProviderError where none were ever told."""
        at, recommended = self._recommended.get(hostname, (0.0, None))
        if recommended is not None and at >= self.listed_at:
            return recommended
        return (await self.servers()).get(hostname) or recommended

    async def recommended(self, wish: Wish) -> list[Server]:
        """The servers the provider recommends for `wish`, or none where it does not say."""
        # The whole list is what counts once the provider is away.
        self._servers.behind()
        try:
            land = (await self.lands()).get(wish.country)
            if land is None:
                return []
            query = {
                "limit": str(RECOMMENDED),
                "filters[country_id]": str(land.id),
                "filters[servers_technologies][identifier]": TECHNOLOGY[wish.protocol],
            }
            servers = parse_servers(await self._api.get("/v1/servers/recommendations", query))
        except ProviderError as error:
            log.warning("recommendations_failed", country=wish.country, reason=str(error))
            return []
        self._recommended.update({server.hostname: (self._wall(), server) for server in servers})
        return servers

    async def close(self) -> None:
        await self._lands.close()
        await self._servers.close()

    async def _ask_lands(self) -> tuple[Land, ...]:
        return tuple(parse_countries(await self._api.get("/v1/servers/countries")))

    async def _ask_servers(self) -> tuple[Server, ...]:
        answer = await self._api.get("/v1/servers", {"limit": "0"}, patience=PATIENCE)
        return tuple(await asyncio.to_thread(parse_servers, answer))


class _Copy:
    """One list on disk, in the API's own shape, so that it is checked in the same way when it is read."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self, parse: Callable[[Any], list[T]]) -> tuple[float, tuple[T, ...]]:
        if self._path is None:
            return 0.0, ()
        try:
            with self._path.open("rb") as stream:
                stored = json.loads(stream.read(MAX_COPY))
            if stored["schema"] != 1:
                raise ValueError("not a copy of this version")
            return float(stored["at"]), tuple(parse(stored["told"]))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            log.error("provider_copy_not_read", path=str(self._path), reason=str(error) or type(error).__name__)
        return 0.0, ()

    def save(self, at: float, told: list[dict[str, Any]]) -> None:
        if self._path is None:
            return
        try:
            stored = {"schema": 1, "at": at, "told": told}
            write_private(self._path, json.dumps(stored, separators=(",", ":")).encode())
        except OSError as error:
            log.error("provider_copy_not_written", path=str(self._path), reason=error.strerror)
