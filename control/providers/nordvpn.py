"""NordVPN, or whoever speaks its HTTP API (the lab's stand-in does).

Recommendations first, then the whole list, then the last good copy in memory: an API that is out of order keeps no node
from starting, as long as it answered once. A server is given to one node of the account at a time.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

from control.config import NordVpnAccount, NordVpnSettings
from control.providers import Choice, Material, ProviderError, Secret, Wish, openvpn, split_endpoint
from control.providers.api import Api, StatusError
from control.providers.servers import (
    ENDPOINT,
    TECHNOLOGY,
    Land,
    Server,
    is_wireguard_key,
    parse_countries,
    parse_servers,
    suitable,
)
from health.agent.protocol import VPN_UID
from health.model import Node, Protocol

log = structlog.get_logger()

WIREGUARD_ADDRESS = "10.5.0.2/32"
RECOMMENDED = 20
LIST_TTL_S = 3600.0
CREDENTIALS_TTL_S = 3600.0
PLACEHOLDERS = frozenset({"changeme", "change-me", "token", "your-token", "your_token", "xxx", "secret", "placeholder"})


_NONE: Mapping[str, Any] = {}


class NordVpn:
    """The provider. `clock` is monotonic."""

    def __init__(self, settings: NordVpnSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._api = Api(settings.api_url, settings.timeout)
        self._lands: tuple[float, list[Land]] | None = None
        self._list: tuple[float, list[Server]] | None = None
        self._seen: dict[str, Server] = {}
        self._credentials: dict[str, tuple[float, dict[str, str]]] = {}

    def accounts(self) -> dict[str, int]:
        return {account.name: account.slots for account in self._settings.accounts}

    async def moved(self, nodes: Iterable[Node]) -> set[str]:
        return set()

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float] = _NONE, closed: Mapping[str, str] = _NONE
    ) -> Choice:
        nodes = list(others)
        account = self._account(nodes)
        in_use = {name for node in nodes if node.account == account.name for name in _names(node)}
        server = await self._server(wish, in_use, avoid)
        port, transport = ENDPOINT[wish.protocol]
        return Choice(account.name, server.hostname, server.city, server.address, port, transport)

    async def material(self, node: Node) -> Material:
        account = next((a for a in self._settings.accounts if a.name == node.account), None)
        if account is None:
            raise ProviderError(f"account {node.account!r} is not configured any more")
        credentials = await self._login(account)
        dns = tuple(str(address) for address in self._settings.dns)
        if node.protocol is Protocol.WIREGUARD:
            return await self._wireguard(node, credentials, dns)
        return await self._openvpn(node, credentials, dns)

    async def countries(self) -> tuple[str, ...]:
        return tuple(sorted({land.code for land in await self._countries()}))

    async def close(self) -> None:
        await self._api.close()

    # choosing

    def _account(self, nodes: list[Node]) -> NordVpnAccount:
        if not self._settings.accounts:
            raise ProviderError("no account is configured: add [[nordvpn.accounts]]")
        used = Counter(node.account for node in nodes)
        for account in self._settings.accounts:
            if used[account.name] < account.slots:
                return account
        full = ", ".join(f"{a.name} {used[a.name]}/{a.slots}" for a in self._settings.accounts)
        raise ProviderError(f"every account is in full use: {full}")

    async def _server(self, wish: Wish, in_use: set[str], avoid: Collection[str]) -> Server:
        found = [] if wish.server else suitable(await self._recommended(wish), wish, in_use)
        if all(server.hostname in avoid for server in found):
            everything = await self._everything()
            found += sorted(suitable(everything, wish, in_use), key=lambda server: server.load)
        if not found:
            special = "".join(f" {word}" for word in (wish.server, wish.city) if word)
            raise ProviderError(f"no free {wish.protocol.value} server in {wish.country}{special}")
        return next((server for server in found if server.hostname not in avoid), found[0])

    async def _recommended(self, wish: Wish) -> list[Server]:
        try:
            land = next((land for land in await self._countries() if land.code == wish.country), None)
            if land is None:
                raise ProviderError(f"the provider has no servers in {wish.country}")
            query = {
                "limit": str(RECOMMENDED),
                "filters[country_id]": str(land.id),
                "filters[servers_technologies][identifier]": TECHNOLOGY[wish.protocol],
            }
            return self._remember(parse_servers(await self._api.get("/v1/servers/recommendations", query)))
        except ProviderError as error:
            log.warning("recommendations_failed", country=wish.country, reason=str(error))
            return []

    async def _everything(self) -> list[Server]:
        if self._list is not None and self._clock() - self._list[0] < LIST_TTL_S:
            return self._list[1]
        try:
            answer = await self._api.get("/v1/servers", {"limit": "0"})
            servers = self._remember(await asyncio.to_thread(parse_servers, answer))
            if not servers:
                raise ProviderError("the provider's list of servers is empty")
        except ProviderError as error:
            log.warning("server_list_failed", reason=str(error), copy=len(self._seen))
            if not self._seen:
                raise
            return list(self._seen.values())
        self._list = (self._clock(), servers)
        return servers

    async def _countries(self) -> list[Land]:
        if self._lands is not None and self._clock() - self._lands[0] < LIST_TTL_S:
            return self._lands[1]
        try:
            lands = parse_countries(await self._api.get("/v1/servers/countries"))
            if not lands:
                raise ProviderError("the provider's list of countries is empty")
        except ProviderError:
            if self._lands is None:
                raise
            return self._lands[1]
        self._lands = (self._clock(), lands)
        return lands

    def _remember(self, servers: list[Server]) -> list[Server]:
        self._seen.update({server.hostname: server for server in servers})
        return servers

    # what a tunnel needs

    async def _wireguard(self, node: Node, credentials: dict[str, str], dns: tuple[str, ...]) -> Material:
        server = self._seen.get(node.vpn_server)
        if server is None:
            server = next((s for s in await self._everything() if s.hostname == node.vpn_server), None)
        if server is None or not server.public_key:
            raise ProviderError(f"no WireGuard key is known for {node.vpn_server}")
        key = credentials.get("nordlynx_private_key", "")
        if not is_wireguard_key(key):
            raise ProviderError(f"account {node.account}: the provider gave no WireGuard key")
        files = (Secret("wg.key", 0, key.encode() + b"\n"),)
        return Material(dns, files, WIREGUARD_ADDRESS, server.public_key)

    async def _openvpn(self, node: Node, credentials: dict[str, str], dns: tuple[str, ...]) -> Material:
        address, port, transport = split_endpoint(node.endpoint)
        choice = Choice(node.account, node.vpn_server, node.city, address, port, transport)
        user, password = credentials.get("username", ""), credentials.get("password", "")
        if not user or not password or "\n" in user + password:
            raise ProviderError(f"account {node.account}: the provider gave no user and password")
        if self._settings.ca_file is None:
            raise ProviderError("nordvpn.ca_file is not set: OpenVPN needs the servers' authority")
        extra = [Secret(openvpn.CA_FILE, VPN_UID, await _read(self._settings.ca_file))]
        if self._settings.tls_auth_file is not None:
            extra.append(Secret(openvpn.TLS_AUTH_FILE, VPN_UID, await _read(self._settings.tls_auth_file)))
        config = openvpn.render(choice, tls_auth=self._settings.tls_auth_file is not None)
        files = (
            Secret(openvpn.CONFIG_FILE, VPN_UID, config),
            Secret(openvpn.AUTH_FILE, VPN_UID, f"{user}\n{password}\n".encode()),
            *extra,
        )
        return Material(dns, files)

    async def _login(self, account: NordVpnAccount) -> dict[str, str]:
        kept = self._credentials.get(account.name)
        if kept is not None and self._clock() - kept[0] < CREDENTIALS_TTL_S:
            return kept[1]
        token = await read_token(account)
        try:
            answer = await self._api.get("/v1/users/services/credentials", login=("token", token))
        except ProviderError as error:
            refused = isinstance(error, StatusError) and error.status in (401, 403)
            if kept is not None and not refused:
                return kept[1]
            self._credentials.pop(account.name, None)
            what = "the provider refuses its token" if refused else str(error)
            raise ProviderError(f"account {account.name}: {what}") from None
        if not isinstance(answer, dict):
            raise ProviderError(f"account {account.name}: the provider's answer is not understood")
        credentials = {key: value for key, value in answer.items() if isinstance(value, str)}
        self._credentials[account.name] = (self._clock(), credentials)
        return credentials


async def read_token(account: NordVpnAccount) -> str:
    """The access token of an account. Raises ProviderError for a missing, empty or placeholder one."""
    token = (await _read(account.token_file)).decode(errors="replace").strip()
    if not token or token.lower() in PLACEHOLDERS or any(character.isspace() for character in token):
        raise ProviderError(f"account {account.name}: {account.token_file} holds no access token")
    return token


async def _read(path: Path) -> bytes:
    try:
        return await asyncio.to_thread(path.read_bytes)
    except OSError as error:
        raise ProviderError(f"{path}: {error.strerror}") from None


def _names(node: Node) -> tuple[str, ...]:
    address = node.endpoint.rpartition("/")[0].rpartition(":")[0].strip("[]")
    return tuple(name for name in (node.vpn_server, address) if name)
