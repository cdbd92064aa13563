"""One HTTP connection from a node to the endpoint of speed tests, over a socket that the node's agent made.

Fails closed: the name is looked up through the tunnel, the very address that was judged is dialled, and only a socket
of the node's own network namespace is used. Whatever goes wrong is a SpeedError.
"""

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from health.agent.protocol import NOT_FOUND
from health.agent_client import AgentClient
from health.reasons import WIRE, Reason

CONNECT_S = 5.0
# The loop sees the end of a connection a moment later.
CLOSE_S = 0.05
_REASONS = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reason.NETWORK_UNREACHABLE,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
    errno.ECONNRESET: Reason.TARGET_RESET,
}


class SpeedError(Exception):
    """A test that failed: why, and in words."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@asynccontextmanager
async def connection(agent: AgentClient, host: str) -> AsyncIterator[tuple[aiohttp.ClientSession, socket.socket]]:
    """One connection to `host`, not made yet: what asks over it, and its socket, to be asked what the kernel knows."""
    address = await _address(agent, host)
    _, (handed,) = await agent.sockets(1)
    theirs = socket.socket(fileno=handed.detach())
    try:
        # Ours stays open when the other is closed.
        with socket.socket(fileno=os.dup(theirs.fileno())) as ours:
            async with _session(address, theirs) as session:
                try:
                    yield session, ours
                finally:
                    # What was not sent yet would keep it open for as long as the peer does not read.
                    with suppress(OSError):
                        ours.shutdown(socket.SHUT_RDWR)
    finally:
        await asyncio.sleep(CLOSE_S)
        theirs.close()  # where it was never used, or given up while it was connecting


def _session(address: str, used: socket.socket) -> aiohttp.ClientSession:
    left = [used]

    def once(_: object) -> socket.socket:
        if not left:  # aiohttp asks again where a GET was cut before its answer
            raise ConnectionResetError(errno.ECONNRESET, "cut")
        return left.pop()

    connector = aiohttp.TCPConnector(
        resolver=_Resolved(address),
        socket_factory=once,
        use_dns_cache=False,
        happy_eyeballs_delay=None,
        force_close=True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"User-Agent": "vpnexit-speed-test", "Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    )


class _Resolved(AbstractResolver):
    """The one address that was judged."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Whatever the name."""
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        """Nothing is open."""


async def _address(agent: AgentClient, host: str) -> str:
    """Where to dial: the address as it was configured, else a public one that the tunnel's DNS knows."""
    with suppress(ipaddress.AddressValueError):
        return str(ipaddress.IPv4Address(host))
    found = await agent.resolve(host, timeout=CONNECT_S)
    if found.error and found.error != NOT_FOUND:
        raise SpeedError(Reason.NAME_LOOKUP, f"{host} could not be resolved through the tunnel")
    if not found.addresses:
        raise SpeedError(Reason.NAME_NOT_FOUND, f"{host} has no IPv4 address, says the tunnel's DNS")
    for address in map(ipaddress.IPv4Address, found.addresses):
        if not address.is_global or address.is_multicast:
            raise SpeedError(Reason.TARGET_FORBIDDEN, f"{host} is {address} in there, which is not a public address")
    return found.addresses[0]


@contextmanager
def explained() -> Iterator[None]:
    """What goes wrong on the way to the endpoint, as SpeedError."""
    try:
        yield
    except TimeoutError:
        raise SpeedError(Reason.TARGET_TIMEOUT, "the endpoint did not answer in time") from None
    except aiohttp.ClientConnectorCertificateError as error:
        cause = error.certificate_error
        why = str(getattr(cause, "verify_message", "") or cause).rstrip(".")
        raise SpeedError(Reason.TARGET_PROTOCOL, f"the endpoint's certificate is not accepted: {why[:200]}") from None
    except aiohttp.ClientSSLError as error:
        why = getattr(error.os_error, "reason", "") or type(error.os_error).__name__
        raise SpeedError(Reason.TARGET_PROTOCOL, f"TLS with the endpoint failed: {why[:200]}") from None
    except aiohttp.ClientConnectorError as error:
        reason = _REASONS.get(error.errno or 0, Reason.HOST_UNREACHABLE)
        what = errno.errorcode.get(error.errno or 0, "unknown error")
        raise SpeedError(reason, f"no connection to the endpoint: {WIRE[reason].text} ({what})") from None
    except aiohttp.ClientResponseError as error:
        raise SpeedError(Reason.TARGET_PROTOCOL, f"the endpoint's answer is malformed: {error.message[:200]}") from None
    except (aiohttp.ClientError, OSError):
        raise SpeedError(Reason.TARGET_RESET, "the endpoint cut the connection") from None
