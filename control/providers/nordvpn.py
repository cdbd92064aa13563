"""NordVPN, or whoever speaks its HTTP API (the lab's stand-in does).

Recommendations first, then the whole list as last told: an API that is out of order keeps no node from starting, as
long as it answered once. A server is given to one node of an account at a time; one that failed lately, or that only
seems to be in its country, comes after the others.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from control.config import NordVpnAccount, NordVpnSettings
from control.providers import (
    Choice,
    Closed,
    Material,
    NoSlotError,
    ProviderError,
    Secret,
    Wish,
    in_full_use,
    nobody,
    openvpn,
    server_names,
    split_endpoint,
)
from control.providers.api import Api
from control.providers.catalogue import Catalogue
from control.providers.files import read_bounded
from control.providers.logins import Credentials, Logins
from control.providers.servers import ENDPOINT, Server, preferred, suitable
from health.agent.protocol import VPN_UID
from health.model import Node, Protocol

WIREGUARD_ADDRESS = "10.5.0.2/32"


class NordVpn:
    """The provider. Below `directory`, if there is one, it keeps what the API told. `clock` is monotonic."""

    def __init__(
        self,
        settings: NordVpnSettings,
        directory: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._api = Api(settings.api_url, settings.timeout, clock, wall)
        self._catalogue = Catalogue(self._api, directory, clock, wall)
        self._logins = Logins(self._api, directory, clock)

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float], closed: Mapping[str, Closed]
    ) -> Choice:
        nodes = list(others)
        trouble: ProviderError | None = None
        for account in await self._open(nodes, closed):
            in_use = {name for node in nodes if node.account == account.name for name in server_names(node)}
            try:
                server = await self._server(wish, in_use, avoid)
            except ProviderError as error:
                trouble = trouble if isinstance(trouble, NoSlotError) else error
                continue
            port, transport = ENDPOINT[wish.protocol]
            return Choice(
                account.name, server.hostname, server.city, server.address, port, transport, virtual=server.virtual
            )
        raise trouble or ProviderError("no account is configured: add [[nordvpn.accounts]]")

    async def material(self, node: Node) -> Material:
        account = next((a for a in self._settings.accounts if a.name == node.account), None)
        if account is None:
            raise ProviderError(f"account {node.account!r} is not configured any more")
        credentials = await self._logins.credentials(account)
        dns = tuple(str(address) for address in self._settings.dns)
        if node.protocol is Protocol.WIREGUARD:
            return await self._wireguard(node, credentials, dns)
        return await self._openvpn(node, credentials, dns)

    def accounts(self) -> Mapping[str, int]:
        return {account.name: account.slots for account in self._settings.accounts}

    def moved(self, nodes: Mapping[str, Node]) -> dict[str, str]:
        mine = [node for node in nodes.values() if node.account in self.accounts()]
        return moved(self._catalogue.listed(), self._catalogue.listed_at, mine) if mine else {}

    def refused(self, account: str) -> None:
        self._logins.doubt(account)

    async def countries(self) -> tuple[str, ...]:
        try:
            return tuple(sorted(await self._catalogue.lands()))
        except ProviderError:
            served = {server.country for server in self._catalogue.listed().values()}
            if not served:
                raise
            return tuple(sorted(served))

    async def servers(self) -> dict[str, tuple[str, ...]]:
        """Host names of all usable servers, by country. Raises ProviderError."""
        found: dict[str, list[str]] = {}
        for server in (await self._catalogue.servers()).values():
            found.setdefault(server.country, []).append(server.hostname)
        return {country: tuple(sorted(names)) for country, names in found.items()}

    async def close(self) -> None:
        await self._catalogue.close()
        await self._api.close()

    # choosing

    async def _open(self, nodes: list[Node], closed: Mapping[str, Closed]) -> list[NordVpnAccount]:
        used = Counter(node.account for node in nodes)
        found, shut = [], []
        for account in self._settings.accounts:
            trouble = await self._logins.trouble(account)
            why = Closed(trouble) if trouble else closed.get(account.name)
            why = why or in_full_use(account.name, used[account.name], account.slots)
            if why is None:
                found.append(account)
            else:
                shut.append(why)
        if shut and not found:
            raise nobody(shut)
        return found

    async def _server(self, wish: Wish, in_use: set[str], avoid: Mapping[str, float]) -> Server:
        found = [] if wish.server else suitable(await self._catalogue.recommended(wish), wish, in_use)
        if all(server.virtual or server.hostname in avoid for server in found):
            everything = await self._everything(found)
            found += sorted(suitable(everything, wish, in_use), key=lambda server: server.load)
        if not found:
            special = "".join(f" {word}" for word in (wish.server, wish.city) if word)
            what = f"no free {wish.protocol.value} server in {wish.country}{special}"
            if suitable(self._catalogue.listed().values(), wish, ()):
                raise NoSlotError(f"{what}: all are in use")
            raise ProviderError(what)
        return preferred(found, avoid)[0]

    async def _everything(self, found: list[Server]) -> list[Server]:
        try:
            return list((await self._catalogue.servers()).values())
        except ProviderError:
            if not found:
                raise
            return []

    # what a tunnel needs

    async def _wireguard(self, node: Node, credentials: Credentials, dns: tuple[str, ...]) -> Material:
        server = await self._catalogue.find(node.vpn_server)
        if server is None or not server.public_key:
            raise ProviderError(f"no WireGuard key is known for {node.vpn_server}")
        if not credentials.wireguard_key:
            raise ProviderError(f"account {node.account}: the provider gave no WireGuard key")
        files = (Secret("wg.key", 0, credentials.wireguard_key.encode() + b"\n"),)
        return Material(dns, files, WIREGUARD_ADDRESS, server.public_key)

    async def _openvpn(self, node: Node, credentials: Credentials, dns: tuple[str, ...]) -> Material:
        address, port, transport = split_endpoint(node.endpoint)
        choice = Choice(node.account, node.vpn_server, node.city, address, port, transport)
        if not credentials.username or not credentials.password:
            raise ProviderError(f"account {node.account}: the provider gave no user and password")
        if self._settings.ca_file is None:
            raise ProviderError("nordvpn.ca_file is not set: OpenVPN needs the servers' authority")
        extra = [Secret(openvpn.CA_FILE, VPN_UID, await asyncio.to_thread(read_bounded, self._settings.ca_file))]
        tls_auth = self._settings.tls_auth_file
        if tls_auth is not None:
            extra.append(Secret(openvpn.TLS_AUTH_FILE, VPN_UID, await asyncio.to_thread(read_bounded, tls_auth)))
        login = f"{credentials.username}\n{credentials.password}\n"
        files = (
            Secret(openvpn.CONFIG_FILE, VPN_UID, openvpn.render(choice, tls_auth=tls_auth is not None)),
            Secret(openvpn.AUTH_FILE, VPN_UID, login.encode()),
            *extra,
        )
        return Material(dns, files)


def moved(listed: Mapping[str, Server], told: float, nodes: Iterable[Node]) -> dict[str, str]:
    """Of `nodes`, those whose server is in `listed` under another address, and why they do not match. Pure.

    `told`: when the list was (Unix seconds). A node that was requested later may know better: servers are recommended
    by newer knowledge.
    """
    found = {}
    for node in nodes:
        server = listed.get(node.vpn_server)
        if server is not None and node.requested_at <= told and server.address not in server_names(node):
            found[node.id] = f"{node.vpn_server} has another address by now: {server.address}"
    return found
