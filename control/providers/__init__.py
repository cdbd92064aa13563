"""Where VPN servers and credentials come from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol as Interface

from health.model import Node, Protocol


class ProviderError(Exception):
    """No server or no credentials, in plain words."""


class NoSlotError(ProviderError):
    """Every session of every account, or every server, is in use; one may become free."""


def unknown_provider(name: str, known: Iterable[str]) -> str:
    """What to say to somebody who names a provider that is not there."""
    there = ", ".join(sorted(known)) or "none"
    more = "; `custom` comes with custom.directory in the configuration" if name == "custom" else ""
    return f"there is no provider {name!r}; there are: {there}{more}"


@dataclass(frozen=True, slots=True)
class Closed:
    """Why an account takes no node now. `full`: its sessions are in use, and one may become free."""

    reason: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What a new node is to be. `server` and `city` are empty where any will do."""

    country: str
    protocol: Protocol
    server: str = ""
    city: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A server for one node. `endpoint` is a number, a port and udp or tcp: nobody looks it up again.

    `virtual`: the server only seems to be in the country; it stands elsewhere.
    """

    account: str
    server: str
    city: str
    address: str
    port: int
    transport: str
    virtual: bool = False

    @property
    def endpoint(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}/{self.transport}"


@dataclass(frozen=True, slots=True)
class Secret:
    """A file only one user inside the container may read. Its content never appears in a representation."""

    name: str
    uid: int
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Material:
    """What a tunnel needs: DNS servers inside it, WireGuard's public parts, and the secret files."""

    dns: tuple[str, ...]
    files: tuple[Secret, ...]
    address: str = ""
    server_public_key: str = ""


class Provider(Interface):
    """Every method raises ProviderError, within seconds, unless it says otherwise."""

    async def choose(
        self, wish: Wish, others: Iterable[Node], avoid: Mapping[str, float], closed: Mapping[str, Closed]
    ) -> Choice:
        """A server and account for a new node beside `others`, the nodes that have a session or are to get one.

        Servers in `avoid` failed lately, the heavier the more: they are taken only where there is no other. Accounts in
        `closed` take no node now. Raises NoSlotError where it is for want of a free session alone.
        """
        ...

    async def material(self, node: Node) -> Material:
        """The files for the tunnel of `node`, whose server and account were chosen before."""
        ...

    def accounts(self) -> Mapping[str, int]:
        """The accounts there are, and how many sessions each may have at once. Never raises."""
        ...

    def moved(self, nodes: Mapping[str, Node]) -> dict[str, str]:
        """Those of `nodes` whose server has another address or port by now, by id, and why they do not match.

        By what is known; newer knowledge is fetched behind it, every ten minutes at most. Never waits, never raises. A
        server that is not known, or a provider in trouble, moves nobody. Nodes of other providers are passed over.
        """
        ...

    def refused(self, account: str) -> None:
        """A VPN server refused the credentials of `account`: ask for them anew before the next use. Never raises."""
        ...

    async def countries(self) -> tuple[str, ...]:
        """Codes of the countries that have servers, sorted."""
        ...

    async def close(self) -> None: ...


def server_names(node: Node) -> tuple[str, ...]:
    """What a node's server is known by: its host name and its address, as far as they are recorded."""
    address = node.endpoint.rpartition("/")[0].rpartition(":")[0].strip("[]")
    return tuple(name for name in (node.vpn_server, address) if name)


def in_full_use(account: str, used: int, slots: int) -> Closed | None:
    """Why `account`, `used` of whose `slots` sessions are in use, takes no node; None where it does."""
    return Closed(f"account {account}: {used} of {slots} sessions are in use", full=True) if used >= slots else None


def nobody(shut: Iterable[Closed]) -> ProviderError:
    """What to raise where all accounts are shut."""
    reasons = list(shut)
    kind = NoSlotError if all(one.full for one in reasons) else ProviderError
    return kind("no account takes a node: " + "; ".join(one.reason for one in reasons))


def split_endpoint(endpoint: str) -> tuple[str, int, str]:
    """Address, port and transport of what `Choice.endpoint` wrote. Raises ValueError for anything else."""
    rest, _, transport = endpoint.rpartition("/")
    host, _, port = rest.rpartition(":")
    if not host or transport not in ("udp", "tcp"):
        raise ValueError(f"endpoint {endpoint!r} is not understood")
    return host.strip("[]"), int(port), transport
