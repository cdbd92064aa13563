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

from gateway.auth import Authenticator
from gateway.channel import AbortedError, Channel
from gateway.config import GatewaySettings
from gateway.dial import Dialled, Dialler
from gateway.metrics import Metrics
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.relay import PipePool, Relay
from gateway.want import Want, merge, parse_username, split_username
from gateway.wire.base import Target, WireError
from health import countries
from health.model import User
from health.reasons import WIRE, Reason

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
    auth: Authenticator
    metrics: Metrics
    pipes: PipePool = field(default_factory=PipePool)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(256 * 1024)))
    sessions: "set[Session]" = field(default_factory=set)
    empty: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, session: "Session") -> None:
        """Count `session` among the open ones; `empty` is set while there are none."""
        self.sessions.add(session)
        self.empty.clear()
        self.metrics.open.inc()

    def remove(self, session: "Session") -> None:
        """Forget `session`."""
        self.sessions.discard(session)
        self.metrics.open.dec()
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
        self.user: User | None = None
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
        if self.must_authenticate:
            if credentials is None:
                raise WireError(Reason.AUTH_REQUIRED, "this proxy needs a user name and a password")
            # The password first: whoever does not know it learns nothing, and pays the same, whatever the name says.
            name, _ = split_username(credentials[0])
            self.user = await self.worker.auth.check(self.worker.fleet.snapshot.users, name, credentials[1])
        self.user_name, named = parse_username(credentials[0] if credentials else "")
        country = countries.from_port(self.destination[1])
        want = merge(named, Want(country=country))
        if want.country is None and want.node is None:
            default = self.user.default_country if self.user else None
            want = merge(want, Want(country=default or self.worker.settings.default_country))
        allowed = self.user.allowed_countries if self.user else ()
        if allowed and want.country and want.country not in allowed:
            raise WireError(Reason.COUNTRY_FORBIDDEN, f"user {self.user_name} may not use {want.country}")
        self.want = want

    async def dial(self, target: Target) -> Dialled:
        """Connect to `target` for this client. Raises WireError."""
        allowed = self.user.allowed_countries if self.user else ()
        dialled = await self.worker.dialler.dial(self.want, self.user_name, target, allowed)
        self.worker.metrics.dial_seconds.labels(dialled.node.country).observe(dialled.ms / 1000)
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
        metrics = self.worker.metrics
        metrics.connections.labels(country, reason).inc()
        metrics.bytes.labels("up").inc(up)
        metrics.bytes.labels("down").inc(down)
        log.info(
            "connection",
            conn_id=self.conn_id,
            user=self.user.name if self.user else "",
            country=country,
            node=node.id if node else "",
            fault=WIRE[reason].fault,
            reason=reason,
            detail=detail,
            bytes_in=up,
            bytes_out=down,
            ms=round((time.monotonic() - self._started) * 1000, 1),
        )

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
        self.channel.close()
        self.worker.remove(self)
