"""Whatever VPN the operator has files for: a folder of .ovpn and .conf files with country labels.

Each file is a server. Names are looked up here and written as numbers. Two files of one server are never used at once,
by name or by address; a login may be used for as many sessions as are configured, a file without one for one.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import structlog

from control.config import CustomSettings
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
    ovpn,
    server_names,
    split_endpoint,
)
from control.providers.folder import PREFIX, Entry, Folder, scan
from control.providers.lookups import AGAIN_S, Lookups, Resolve, resolve
from control.providers.ovpn import OpenVpnFile
from control.providers.remotes import Remote
from control.providers.wgconf import WireGuardFile
from health.agent.protocol import VPN_UID
from health.agent.wireguard import SHARED_KEY
from health.model import Node, Protocol

log = structlog.get_logger()

TRIES = 3
"""How many servers' names are looked up in vain before a choice is given up."""
SHOWN = 5


class Custom:
    """The provider. `clock` is monotonic."""

    def __init__(
        self,
        settings: CustomSettings,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
        resolve: Resolve = resolve,
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._lookups = Lookups(settings.timeout, clock, resolve)
        self._clock = clock
        self._folder = Folder()
        self._lock = asyncio.Lock()
        self._read_at = float("-inf")
        self._behind: asyncio.Task[None] | None = None

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float], closed: Mapping[str, Closed]
    ) -> Choice:
        nodes = list(others)
        in_use = {name for node in nodes for name in server_names(node)}
        offers = self._open(self._offers(await self._read(), wish, in_use), nodes, closed)
        trouble: list[ProviderError] = []
        for entry, remote in sorted(offers, key=lambda one: avoid.get(one[1].host, 0.0)):
            try:
                address = await self._address(remote, in_use)
            except ProviderError as error:
                trouble.append(error)
                if len(trouble) >= TRIES:
                    break
                continue
            return Choice(entry.account, remote.host, entry.label.city, address, remote.port, remote.transport)
        kind = NoSlotError if all(isinstance(error, NoSlotError) for error in trouble) else ProviderError
        raise kind("; ".join(map(str, trouble)))

    async def material(self, node: Node) -> Material:
        entry, remote = self._file_of(await self._read(), node)
        if isinstance(entry.content, WireGuardFile):
            return self._wireguard(entry, entry.content)
        return self._openvpn(entry, entry.content, remote, node)

    def accounts(self) -> Mapping[str, int]:
        return {entry.account: self._settings.slots if entry.shared else 1 for entry in self._folder.entries}

    def moved(self, nodes: Mapping[str, Node]) -> dict[str, str]:
        mine = [node for node in nodes.values() if node.account.startswith(PREFIX)]
        if mine:
            self._read_behind()
        wanted = {(node.account, node.vpn_server) for node in mine}
        listed: dict[tuple[str, str], list[Remote]] = {}
        for entry in self._folder.entries if mine else ():
            for remote in entry.remotes:
                if (entry.account, remote.host) in wanted:
                    listed.setdefault((entry.account, remote.host), []).append(remote)
        known = [node for node in mine if (node.account, node.vpn_server) in listed]
        self._lookups.look_behind(node.vpn_server for node in known if not _is_number(node.vpn_server))
        reasons = {node.id: self._why_moved(node, listed[node.account, node.vpn_server]) for node in known}
        return {node_id: why for node_id, why in reasons.items() if why}

    def refused(self, account: str) -> None:
        """Nothing to do: files that changed are read again anyway."""

    async def countries(self) -> tuple[str, ...]:
        return tuple(sorted({entry.label.country for entry in (await self._read()).entries}))

    async def servers(self) -> dict[str, tuple[str, ...]]:
        """The servers that the files name, by country. Raises ProviderError."""
        found: dict[str, set[str]] = {}
        for entry in (await self._read()).entries:
            found.setdefault(entry.label.country, set()).update(remote.host for remote in entry.remotes)
        return {country: tuple(sorted(names)) for country, names in found.items()}

    async def close(self) -> None:
        if self._behind is not None:
            self._behind.cancel()
            await asyncio.gather(self._behind, return_exceptions=True)
        await self._lookups.close()

    # the folder

    def _read_behind(self) -> None:
        """Read the folder again without waiting for it, if that is due."""
        running = self._behind is not None and not self._behind.done()
        if not running and self._clock() - self._read_at >= AGAIN_S:
            self._behind = asyncio.create_task(self._try(), name="folder of VPN files")

    async def _try(self) -> None:
        try:
            await self._read()
        except ProviderError as error:
            log.warning("vpn_files_not_read", reason=str(error))

    async def _read(self) -> Folder:
        async with self._lock:
            self._read_at = self._clock()
            found = await asyncio.to_thread(scan, self._directory, self._folder)
            if found is not self._folder:
                for why in found.refused[:SHOWN]:
                    log.error("vpn_file_refused", reason=why)
                log.info(
                    "vpn_files", directory=str(self._directory), usable=len(found.entries), refused=len(found.refused)
                )
            self._folder = found
        return found

    def _offers(self, folder: Folder, wish: Wish, in_use: Collection[str]) -> list[tuple[Entry, Remote]]:
        """The files and servers that fulfil `wish` and are free. Raises ProviderError where there are none."""
        named = [entry for entry in folder.entries if entry.label.country == wish.country and _asked_for(entry, wish)]
        offers = [
            (entry, remote) for entry in named for remote in entry.remotes if _speaks(entry, remote, wish.protocol)
        ]
        free = [(entry, remote) for entry, remote in offers if remote.host not in in_use]
        if free:
            return free
        special = "".join(f" {word}" for word in (wish.server, wish.city) if word)
        if offers:
            raise NoSlotError(f"every {wish.protocol.value} server in {wish.country}{special} is in use")
        spoken = sorted({p.value for p in Protocol for e in named for r in e.remotes if _speaks(e, r, p)})
        hint = f" (there are files for {', '.join(spoken)})" if spoken else ""
        refused = "".join(f"; refused: {why}" for why in folder.refused[:SHOWN])
        raise ProviderError(f"no {wish.protocol.value} file for {wish.country}{special}{hint}{refused}")

    def _open(
        self, offers: list[tuple[Entry, Remote]], nodes: list[Node], closed: Mapping[str, Closed]
    ) -> list[tuple[Entry, Remote]]:
        limits = self.accounts()
        shut: dict[str, Closed] = {}
        for account in {entry.account for entry, _ in offers}:
            used = sum(node.account == account for node in nodes)
            why = closed.get(account) or in_full_use(account, used, limits[account])
            if why is not None:
                shut[account] = why
        found = [(entry, remote) for entry, remote in offers if entry.account not in shut]
        if not found:
            raise nobody(shut[account] for account in sorted(shut)[:SHOWN])
        return found

    def _file_of(self, folder: Folder, node: Node) -> tuple[Entry, Remote]:
        _, port, transport = split_endpoint(node.endpoint)
        for entry in folder.entries:
            for remote in entry.remotes:
                same = (entry.account, entry.label.country) == (node.account, node.country)
                spoken = node.protocol is not None and _speaks(entry, remote, node.protocol)
                if same and spoken and remote == Remote(node.vpn_server, port, transport):
                    return entry, remote
        raise ProviderError(
            f"the file for {node.vpn_server} is gone from {self._directory}, or says something else now"
        )

    def _why_moved(self, node: Node, same: list[Remote]) -> str:
        address, port, transport = split_endpoint(node.endpoint)
        if not any((remote.port, remote.transport) == (port, transport) for remote in same):
            return f"the file for {node.vpn_server} names another port by now"
        if not _is_number(node.vpn_server) and self._lookups.gone(node.vpn_server, address):
            return f"{node.vpn_server} has another address by now"
        return ""

    async def _address(self, remote: Remote, in_use: Collection[str]) -> str:
        found = [remote.host] if remote.is_address else await self._lookups.addresses(remote.host)
        free = [address for address in found if address not in in_use]
        if not free:
            raise NoSlotError(f"{remote.host}: its address is in use under another name")
        return free[0]

    # what a tunnel needs

    def _wireguard(self, entry: Entry, found: WireGuardFile) -> Material:
        dns = self._dns(found.dns)
        if not dns:
            raise ProviderError(
                f"{entry.name} names no DNS server inside the tunnel: add a line DNS, or set custom.dns"
            )
        files = [Secret("wg.key", 0, found.private_key.encode() + b"\n")]
        if found.preshared_key:
            files.append(Secret(SHARED_KEY, 0, found.preshared_key.encode() + b"\n"))
        return Material(dns, tuple(files), found.address, found.public_key)

    def _openvpn(self, entry: Entry, found: OpenVpnFile, remote: Remote, node: Node) -> Material:
        address, _, _ = split_endpoint(node.endpoint)
        text = ovpn.render(found, remote, address, login=entry.login is not None)
        files = [Secret(openvpn.CONFIG_FILE, VPN_UID, text)]
        if entry.login is not None:
            files.append(Secret(openvpn.AUTH_FILE, VPN_UID, "{}\n{}\n".format(*entry.login).encode()))
        # Without any, the exit takes those that the server pushes.
        return Material(self._dns(found.dns), tuple(files))

    def _dns(self, told: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(address) for address in self._settings.dns) or told


def _asked_for(entry: Entry, wish: Wish) -> bool:
    names = {entry.name.lower(), Path(entry.name).stem.lower(), *(remote.host for remote in entry.remotes)}
    city = "".join(entry.label.city.lower().split())
    return (not wish.server or wish.server.lower() in names) and (
        not wish.city or "".join(wish.city.lower().split()) == city
    )


def _speaks(entry: Entry, remote: Remote, protocol: Protocol) -> bool:
    if isinstance(entry.content, WireGuardFile):
        return protocol is Protocol.WIREGUARD
    return protocol is (Protocol.OPENVPN_UDP if remote.transport == "udp" else Protocol.OPENVPN_TCP)


def _is_number(host: str) -> bool:
    return Remote(host, 0, "udp").is_address
