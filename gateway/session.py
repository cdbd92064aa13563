"""One client connection, from accept to the last byte: who it is, what it wants, and what became of it.

`front` finds out what the client speaks, `socks_session` and `http_session` speak it; this module holds what they
share. A coroutine lives only until the tunnel stands: carrying bytes needs none.
"""

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address

import structlog

from gateway.channel import AbortedError, Channel
from gateway.config import GatewaySettings
from gateway.connection_log import ConnectionLog
from gateway.dial import Dialled, Dialler
from gateway.identity import Identifier, Place, socks_raw
from gateway.limits import Grant, Limiter
from gateway.metrics import Metrics
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.relay import PipePool, Relay
from gateway.want import Want
from gateway.wire.base import Target, WireError
from health.model import User
from health.reasons import Reason

log = structlog.get_logger()

LINGER_S = 1.0
LINGER_BYTES = 262_144
_numbers = itertools.count(1)
_prefix = secrets.token_hex(4)


class ClientGoneError(Exception):
    """The client closed before it had asked for anything."""


@dataclass(slots=True)
class Worker:
    """What all sessions of a worker share."""

    settings: GatewaySettings
    poller: Poller
    fleet: Fleet
    dialler: Dialler
    identifier: Identifier
    limiter: Limiter
    metrics: Metrics
    log: ConnectionLog
    pipes: PipePool = field(default_factory=PipePool)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(256 * 1024)))
    sessions: "set[Session]" = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, session: "Session") -> None:
        """Count `session` among the open ones; `empty` is set while there are none."""
        self.sessions.add(session)
        self.empty.clear()
        self.metrics.opened()

    def remove(self, session: "Session") -> None:
        """Forget `session`."""
        self.sessions.discard(session)
        self.metrics.closed()
        if not self.sessions:
            self.empty.set()


class Session:
    """One client. `data` holds what was read and not yet used."""

    def __init__(self, worker: Worker, sock: socket.socket, peer: tuple[str, int]) -> None:
        self.worker = worker
        self.channel = Channel(worker.poller, sock)
        self.data = b""
        self.conn_id = f"{_prefix}{next(_numbers):08x}"
        self.source = ip_address(peer[0].partition("%")[0])
        here = sock.getsockname()
        self.destination: tuple[IPv4Address | IPv6Address, int] = (ip_address(here[0].partition("%")[0]), here[1])
        self.authority: str | None = None
        self.user: User | None = None
        self.grant: Grant | None = None
        self.user_name = ""
        self.want = Want()
        self.dialled: Dialled | None = None
        self._relay: Relay | None = None
        self._started = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def start(self, serve: "Callable[[Session], Awaitable[None]]") -> None:
        """Let `serve` speak with the client, in a task of its own."""
        self.worker.add(self)
        self._task = asyncio.create_task(self._run(serve), name="session")

    @property
    def must_authenticate(self) -> bool:
        """Always beyond loopback, seen from where the client dialled; on loopback where configured."""
        return self.worker.settings.require_auth or not self.destination[0].is_loopback or not self.source.is_loopback

    @property
    def owner(self) -> str:
        """Whose the client's sessions are: the user it proved to be, nobody's in particular without a password."""
        return self.user.name if self.user else ""

    async def more(self) -> None:
        """Read more into `data`. Raises ClientGoneError at the end."""
        chunk = await self.channel.read()
        if not chunk:
            raise ClientGoneError
        self.data += chunk

    async def identify(self, credentials: tuple[str, str] | None) -> None:
        """Check who it is, and put together what it wants from every source that says so.

        Raises WireError.
        """
        self.user, self.user_name = None, ""
        place = Place(self.destination, self.authority, self.must_authenticate)
        raw = socks_raw(*credentials) if credentials else b""
        identifier, limiter = self.worker.identifier, self.worker.limiter
        self.user, self.user_name, self.want = await identifier.identify(credentials, raw, place, self.source)
        if self.grant is not None:
            self.grant.release()
        self.grant = limiter.admit(self.user)

    async def dial(self, target: Target) -> Dialled:
        """Connect to `target` for this client. Raises WireError."""
        allowed = self.user.allowed_countries if self.user else ()
        dialled = await self.worker.dialler.dial(self.want, self.owner, target, allowed)
        self.worker.metrics.dialled(dialled.node.country, dialled.node.id, dialled.ms / 1000)
        return dialled

    def tunnel(self, dialled: Dialled) -> None:
        """From here on bytes go both ways until both sides end; what the client sent early goes first."""
        self.dialled = dialled
        if dialled.channel.closed:  # the node went away while the client was told
            self.record(Reason.NODE_LOST)
            self.channel.abort()
            return
        worker = self.worker
        relay = Relay(worker.poller, self.channel, dialled.channel, worker.pipes, worker.buffer, self._tunnel_ended)
        self._relay = relay
        dialled.link.tunnels.discard(dialled.channel)
        dialled.link.tunnels.add(relay)
        early, self.data = self.data, b""
        relay.start(early)

    def abort(self) -> None:
        """Cut the client off at once."""
        if self._relay is not None:
            self._relay.abort(Reason.SHUTDOWN)
        elif self._task is not None:
            self._task.cancel()

    async def refuse(self, answer: bytes) -> None:
        """Send a last answer so that it arrives: close our side, and read on for a moment before closing."""
        try:
            async with asyncio.timeout(LINGER_S):
                await self.channel.write(answer)
                self.channel.sock.shutdown(socket.SHUT_WR)
                seen = 0
                while seen < LINGER_BYTES and (chunk := await self.channel.read()):
                    seen += len(chunk)
        except (OSError, TimeoutError):
            pass

    def record(self, reason: Reason, *, up: int = 0, down: int = 0, detail: str = "") -> None:
        """Count and log how the connection (or one plain HTTP request) ended."""
        node = self.dialled.node if self.dialled else None
        country = node.country if node else self.want.country or ""
        node_id = node.id if node else ""
        self.worker.metrics.ended(country, node_id, reason, up, down)
        if self.grant is not None:
            self.grant.count(up + down)
        user = self.user.name if self.user else ""
        ms = (time.monotonic() - self._started) * 1000
        self.worker.log.write(self.conn_id, user, country, node_id, reason, detail, up, down, ms)

    async def _run(self, serve: "Callable[[Session], Awaitable[None]]") -> None:
        try:
            await serve(self)
        except (ClientGoneError, AbortedError):
            pass
        except WireError as error:
            self.record(error.reason, detail=error.detail)
        except TimeoutError:
            self.record(Reason.HANDSHAKE_TIMEOUT)
        except OSError:
            self.record(Reason.CLIENT_RESET)
        except Exception:
            log.exception("session failed", conn_id=self.conn_id)
            self.record(Reason.INTERNAL)
        finally:
            if self._relay is None:
                self._close()

    def _tunnel_ended(self, relay: Relay) -> None:
        assert self.dialled is not None  # noqa: S101 - set by tunnel()
        self.dialled.link.tunnels.discard(relay)
        self.record(relay.reason, up=relay.bytes_up, down=relay.bytes_down)
        self._close()

    def _close(self) -> None:
        if self.grant is not None:
            self.grant.release()
        self.channel.close()
        self.worker.remove(self)
