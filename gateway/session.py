"""One client connection, from accept to the last byte: who it is, what it wants, and what became of it.

`front` finds out what the client speaks; `http_session` and `socks_session` speak it, a step for every piece that
arrives. A step never waits: whatever has to (an argon2 hash, a look-up, plain HTTP) runs in a task of the session, and
most connections never have one.
"""

import asyncio
import itertools
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import structlog

from gateway import session_tasks as tasks
from gateway.channel import AbortedError, Channel
from gateway.deadlines import Deadlines
from gateway.dial import Dial
from gateway.dialled import Dialled
from gateway.errors import ClientGoneError
from gateway.identity import Identity, Place
from gateway.limits import Grant
from gateway.poller import BROKEN, ENDED, READ, URGENT
from gateway.relay import Tunnel
from gateway.want import Want
from gateway.wire.base import Address, Target, WireError
from gateway.worker import Worker
from health.model import User
from health.reasons import Reason

log = structlog.get_logger()

LINGER_BYTES = 262_144
CUT_WITHIN_S = 60.0
_HEAD_READ = 65_536
_numbers = itertools.count(1)
_prefix = secrets.token_hex(4)
_NOTHING = Want()


class ClientProtocol(Protocol):
    """How a protocol tells the client what came of its request."""

    def connected(self, session: "Session", dialled: Dialled) -> bytes: ...
    def refused(self, session: "Session", error: WireError) -> bytes: ...


class Traffic(Protocol):
    """What passes bytes for a client and is no tunnel. `passed`: how many so far, both ways together."""

    @property
    def passed(self) -> int: ...
    def end(self, reason: Reason) -> None: ...


class Session:
    """One client. `data` holds what was read and not yet used; `traffic` is a plain HTTP exchange or UDP association
    under way."""

    __slots__ = (
        "_admitted",
        "_channel",
        "_closed",
        "_deadlines",
        "_dial",
        "_events",
        "_settled",
        "_task",
        "_told",
        "_tunnel",
        "conn_id",
        "data",
        "dialled",
        "grant",
        "identity",
        "kept",
        "place",
        "protocol",
        "sock",
        "source",
        "started",
        "state",
        "step",
        "traffic",
        "worker",
    )

    def __init__(
        self,
        worker: Worker,
        sock: socket.SocketType,
        source: Address,
        place: Place,
        step: "Callable[[Session], None]",
    ) -> None:
        self.worker = worker
        self.sock = sock
        self.source = source
        self.place = place
        self.data = b""
        self.conn_id = f"{_prefix}{next(_numbers):08x}"
        self.identity: Identity | None = None
        self.grant: Grant | None = None
        self.dialled: Dialled | None = None
        self.protocol: ClientProtocol | None = None
        self.state: Any = None
        self.step = step
        self._channel: Channel | None = None
        self._dial: Dial | None = None
        self._events = 0
        self.kept = False  # a task waits for another request, and the client owes us none
        self.started = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._told = False
        self._tunnel: Tunnel | None = None
        self._settled = 0
        self.traffic: Traffic | None = None
        self._closed = False
        self._admitted = False
        self._deadlines: Deadlines | None = None

    def start(self, deadlines: Deadlines) -> None:
        """Begin to listen to the client, who has until `deadlines` say."""
        worker = self.worker
        if not worker.sessions:
            worker.empty.clear()
        worker.sessions.add(self)
        worker.metrics.opened()
        self._deadlines = deadlines
        deadlines.add(self)
        worker.poller.watch(self.sock.fileno(), self._on_data)

    # who and what, for the protocols

    @property
    def user(self) -> User | None:
        """The proxy user who proved to be one, else None."""
        return self.identity.user if self.identity else None

    @property
    def user_name(self) -> str:
        """The name given, proved or not."""
        return self.identity.name if self.identity else ""

    @property
    def owner(self) -> str:
        """Whose the client's sessions are: the user it proved to be, nobody's in particular without a password."""
        identity = self.identity
        return identity.user.name if identity and identity.user else ""

    @property
    def want(self) -> Want:
        return self.identity.want if self.identity else _NOTHING

    @property
    def destination(self) -> tuple[Address, int]:
        """Where the client dialled."""
        return self.place.destination

    @property
    def must_authenticate(self) -> bool:
        return self.place.must_authenticate

    @property
    def channel(self) -> Channel:
        """The client's socket as something that can be awaited."""
        if self._channel is None:
            self._channel = Channel(self.worker.poller, self.sock)
        return self._channel

    @property
    def tunnel_of(self) -> Tunnel | None:
        """The tunnel, while it stands."""
        return self._tunnel

    # steps

    def identify_then(
        self, raw: bytes, credentials: Callable[[], tuple[str, str] | None], then: "Callable[[Session], None]"
    ) -> None:
        """Find out who it is, then go on with `then`: at once where the same was proved before. Raises WireError."""
        if self.known(raw):
            then(self)
        else:
            self.run(tasks.identify_then(self, raw, credentials(), then))

    def known(self, raw: bytes) -> bool:
        """Whether the same credentials were proved here before; then it is known who it is. Raises WireError."""
        identity = self.worker.identifier.known(raw, self.place, self.source)
        if identity is None:
            return False
        try:
            self.take(identity)
        except WireError as error:
            if error.reason is Reason.CONNECTION_LIMIT:
                return False  # `tasks.identify` waits for an answer from Redis before it says so
            raise
        return True

    def dial_to(self, target: Target) -> None:
        """Connect to `target`; `protocol` tells the client what came of it, and the tunnel begins."""
        self.untimed()
        self._pause()
        identity = self.identity
        assert identity is not None  # noqa: S101 - every protocol identifies first
        user = identity.user
        owner, allowed = (user.name, user.allowed_countries) if user else ("", ())
        dial = self.worker.dialler.start(identity.want, owner, target, allowed, self._dialled)
        if dial.dialled is None and dial.error is None:
            self._dial = dial

    def resume(self) -> None:
        """Go on reading steps, after a task."""
        self.worker.poller.watch(self.sock.fileno(), self._on_data)
        self.go_on(self.step)
        if self._reading:
            self._on_data(READ)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a task speak with the client from here on."""
        self._pause()
        self._task = asyncio.create_task(tasks.guard(self, work), name="session")

    def deadline(self, deadlines: Deadlines) -> None:
        """Another deadline from now on."""
        self.untimed()
        self._deadlines = deadlines
        deadlines.add(self)

    def untimed(self) -> None:
        """No deadline any more; whoever goes on has its own."""
        deadlines, self._deadlines = self._deadlines, None
        if deadlines is not None:
            deadlines.discard(self)

    def send(self, data: bytes) -> None:
        """A short answer within a handshake. Raises OSError where the client does not even take that."""
        if self.sock.send(data) != len(data):
            raise BlockingIOError

    # for tasks

    def handed_on(self) -> None:
        """The task that calls this ends, the session goes on with steps."""
        self._task = None
        self._events |= READ  # its channel may have had events that nobody read for

    def refuse(self, answer: bytes) -> None:
        """Send a last answer so that it arrives; the WireError that follows ends the session."""
        self._tell_last(answer)

    def take(self, identity: Identity) -> None:
        """It is known who the client is and what it wants. Raises WireError where a limit is reached."""
        old, self.identity = self.identity, identity
        if old is None or old.user is not identity.user or not self._admitted:
            if self.grant is not None:
                self.grant.release()
                self.grant = None
            self._admitted = False
            self.grant = self.worker.limiter.admit(identity.user)
            self._admitted = True
        elif self.grant is not None and self.grant.exhausted:
            raise WireError(Reason.QUOTA_USED, "this user's bytes for the month are used up")

    def task_ended(self, error: BaseException | None) -> None:
        """A task of the session has ended, with `error` or without; unless it handed the session on, that ends, too."""
        match error:
            case None | ClientGoneError() | AbortedError() | asyncio.CancelledError():
                pass
            case WireError() if self._told:
                self.record(error.reason, detail=error.detail)
            case WireError():
                self.fail(error)
            case TimeoutError():
                self.record(Reason.HANDSHAKE_TIMEOUT)
            case OSError():
                self.record(Reason.CLIENT_RESET)
            case _:
                self._broken()
        if self._task is asyncio.current_task():  # else it was handed on
            self._task = None
            if self._reading:
                self._close()

    # the tunnel

    def tunnel(self, dialled: Dialled, client_events: int = READ) -> None:
        """From here on bytes go both ways until both sides end; what the client sent early goes first."""
        self.dialled = dialled
        if dialled.closed:  # the node went away while the client was told
            self.record(Reason.NODE_LOST)
            self._reset()
            return
        worker = self.worker
        self.untimed()
        if self._channel is not None:
            self._channel.hand_over()
        tunnel = self._tunnel = Tunnel(worker.shared, self.sock, dialled.sock, self)
        tunnels = dialled.link.tunnels
        tunnels.discard(dialled)
        tunnels.add(tunnel)
        if self.grant is not None:
            tunnel.up.bucket, tunnel.down.bucket = self.grant.up, self.grant.down
        early, self.data = self.data, b""
        self.state = self.protocol = None
        self._settled = 0
        tunnel.start(early, client_events=client_events, target_events=dialled.events)

    def tunnel_ended(self, reason: Reason, up: int, down: int) -> None:
        """Both sockets are closed."""
        tunnel, self._tunnel = self._tunnel, None
        assert self.dialled is not None  # noqa: S101 - set by tunnel()
        if tunnel is not None:
            self.dialled.link.tunnels.discard(tunnel)
        self.record(reason, up=up, down=down)
        self._close()

    def first_byte(self) -> None:
        """The target has answered."""
        dialled = self.dialled
        if dialled is not None and dialled.since:
            node = dialled.node
            self.worker.metrics.first_byte(node.country, node.id, time.monotonic() - dialled.since)
            dialled.since = 0.0

    def cut_off(self) -> None:
        """The target ended the connection, and nobody had before: an answer, too, where it gave no other. Later it may
        as well be the kernel, which gives up a peer that vanished."""
        dialled = self.dialled
        if dialled is not None and dialled.since and time.monotonic() - dialled.since < CUT_WITHIN_S:
            self.worker.metrics.cut_off(dialled.node.id)
            dialled.since = 0.0

    def settle(self, passed: int) -> None:
        """Count what passed since the last time against the user's month."""
        if self.grant is not None:
            self.grant.count(passed - self._settled)
            self._settled = passed

    # the end

    def expired(self) -> None:
        """The handshake's deadline has come; or the time given to a refused client to read its answer."""
        if self._told:
            self._close()
            return
        self.record(Reason.HANDSHAKE_TIMEOUT)
        self.worker.metrics.refused(Reason.HANDSHAKE_TIMEOUT)
        if self._task is not None:
            self._task.cancel()
        answer = b""
        if self.protocol is not None:
            answer = self.protocol.refused(self, WireError(Reason.HANDSHAKE_TIMEOUT, "no complete request in time"))
        self._tell_last(answer)

    def abort(self, reason: Reason = Reason.SHUTDOWN) -> None:
        """Cut the client off at once."""
        if self._tunnel is not None:
            self._tunnel.abort(reason)
            return
        if not self._told:
            self.record(reason)
        if self._dial is not None:
            self._dial.cancel()
        if self._task is not None:
            self._task.cancel()
        self._reset()

    def drain(self) -> None:
        """The worker stops: a connection that is only kept for another request ends."""
        if self.kept and self._task is not None:
            self._task.cancel()

    def record(self, reason: Reason, *, up: int = 0, down: int = 0, detail: str = "") -> None:
        """Count and log how the connection (or one plain HTTP request) ended."""
        dialled, worker = self.dialled, self.worker
        if dialled is not None:
            country, node = dialled.node.country, dialled.node.id
        else:
            country, node = self.want.country or "", ""
        worker.metrics.ended(country, node, reason, up, down)
        if self.grant is not None:
            self.grant.count(max(up + down - self._settled, 0))
        self._settled = 0
        ms = (time.monotonic() - self.started) * 1000
        user = self.identity.user if self.identity else None
        name = user.name if user else ""
        worker.log.write(self.conn_id, name, country, node, reason, detail, up, down, ms)

    # inside

    @property
    def _reading(self) -> bool:
        """Steps go on: no task, no dial, no tunnel, no end yet."""
        return not (self._closed or self._told or self._task or self._dial or self._tunnel)

    def _on_data(self, events: int) -> None:
        while True:
            try:
                chunk = self.sock.recv(_HEAD_READ)
            except BlockingIOError:
                return
            except OSError:
                self._gone()
                return
            if not chunk:
                self._gone()
                return
            self.data = self.data + chunk if self.data else chunk
            self._events = events & ENDED
            self.go_on(self.step)
            if not self._reading or not (events & (ENDED | URGENT) or len(chunk) == _HEAD_READ):
                return

    def go_on(self, step: "Callable[[Session], None]") -> None:
        """Take a step."""
        try:
            step(self)
        except WireError as error:
            self.fail(error)
        except OSError:
            self.record(Reason.CLIENT_RESET)
            self._close()
        except Exception:
            self._broken()

    def _gone(self) -> None:
        """The client closed before its request was complete: an open connection that said nothing is no event."""
        if self.data or self.state is not None:
            self.record(Reason.CLIENT_RESET)
        self._close()

    def _pause(self) -> None:
        self.worker.poller.watch(self.sock.fileno(), self._on_event_meanwhile)

    def _on_event_meanwhile(self, events: int) -> None:
        """While something else is awaited: remember that there is something to read; a reset ends it."""
        self._events |= events & READ
        if events & BROKEN and not self._closed:
            self.abort(Reason.CLIENT_RESET)

    def _dialled(self, dial: Dial) -> None:
        self._dial = None
        dialled = dial.dialled
        if dialled is None:
            self.fail(dial.error or WireError(Reason.INTERNAL, ""))
            return
        protocol = self.protocol
        assert protocol is not None  # noqa: S101 - who dials has one
        try:
            answer = protocol.connected(self, dialled)
            if self.sock.send(answer) != len(answer):
                raise BlockingIOError
        except OSError:
            self.dialled = dialled
            dialled.abort()
            self.record(Reason.CLIENT_RESET)
            self._reset()
            return
        self.tunnel(dialled, self._events)

    def fail(self, error: WireError) -> None:
        """Record it, and tell the client where its protocol has words for it."""
        self.record(error.reason, detail=error.detail)
        if self.dialled is None:
            self.worker.metrics.refused(error.reason)
        answer = error.reply
        if not answer and not error.silent and self.protocol is not None:
            answer = self.protocol.refused(self, error)
        self._tell_last(answer)

    def _broken(self) -> None:
        log.exception("session failed", conn_id=self.conn_id)
        self.record(Reason.INTERNAL)
        self._reset()

    def _tell_last(self, answer: bytes) -> None:
        """Send `answer` so that it arrives: close our side, and read on for a moment before closing."""
        if self._closed or self._told:
            return
        self._told = True
        self.data = b""
        if not answer:
            self._close()
            return
        try:
            if self.sock.send(answer) != len(answer):
                raise BlockingIOError
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()
            return
        self._events = 0
        self.deadline(self.worker.lingering)
        self.worker.poller.watch(self.sock.fileno(), self._linger)
        self._linger(READ)

    def _linger(self, _: int) -> None:
        if self._closed:
            return
        try:
            while self._events < LINGER_BYTES:
                size = self.sock.recv_into(self.worker.shared.buffer)
                if not size:
                    break
                self._events += size
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close()

    def _reset(self) -> None:
        self.channel.abort()
        self._close()

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.untimed()
        if self._tunnel is None and self.sock.fileno() >= 0:
            self.channel.close()
        if self.grant is not None:
            self.grant.release()
            self.grant = None
        self.worker.remove(self)
