"""Absolute-form HTTP requests of one client: where each goes, and over which connection.

One client connection may ask for changing targets; the connection to the last one is kept while it is idle and its
node is still the right one. Nothing is sent twice, with the exception that RFC 9110 section 9.2.2 makes: an idempotent
request on a kept connection that ended before the target said a word goes once more, on a new connection. What must
not be repeated is sent on a kept connection only shortly after its last answer, when no server closes it yet.
"""

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress

from gateway.dialled import Dialled
from gateway.errors import ClientGoneError
from gateway.http_exchange import CutOffError, Exchange, StaleError
from gateway.session import LINGER_BYTES, Session
from gateway.session_tasks import dial, identify, more
from gateway.want import Want
from gateway.wire.base import Target, WireError
from gateway.wire.http_connect import absolute_target, credentials
from gateway.wire.http_head import Head, parse_head
from gateway.wire.http_rules import check_framing, check_loop, hops_left
from gateway.worker import LINGER_S
from health.reasons import Reason

INTERNAL_HOST = "vpnexit.internal"
FRESH_S = 1.0
KEEP_ALIVE_S = 75.0
_OPTIONS = (b"Allow", b"CONNECT, DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE")


class PlainHttp:
    """The exchanges of one client connection. `used` is true once a request was answered."""

    def __init__(self, session: Session) -> None:
        self.used = False
        self._session = session
        self._upstream: Dialled | None = None
        self._upstream_for: tuple[Target, Want, str] | None = None
        self._kept_since = 0.0

    async def exchange(self, head: Head) -> bool:
        """Answer one request; True if the client may send another, False also when the session became a tunnel.

        Raises WireError while nothing was answered yet.
        """
        check_framing(head)
        check_loop(head)
        target, path, host = absolute_target(head)
        session = self._session
        await identify(session, credentials(head))
        self.used, session.dialled = True, None
        one = Exchange(session, head)
        try:
            if target.host == INTERNAL_HOST:
                await one.reply(b"200 OK", [(b"Content-Type", b"application/json")], await self._describe(head))
            elif hops_left(head) == 0:
                await one.reply(b"200 OK", [_last_hop(head)], b"")
            else:
                await self._forward(one, target, path, host)
        except CutOffError as error:
            session.record(error.reason, up=one.bytes_up, down=one.bytes_down)
            session.channel.abort()
            return False
        except (ClientGoneError, OSError):
            session.record(Reason.CLIENT_RESET, up=one.bytes_up, down=one.bytes_down)
            return False
        return await self._finish(one)

    def close(self) -> None:
        """End the connection to the last target. Idempotent."""
        if self._upstream is not None:
            self._upstream.release()
            self._upstream = None

    async def _finish(self, one: Exchange) -> bool:
        session = self._session
        if one.switched:
            assert self._upstream is not None  # noqa: S101 - it was just forwarded to
            dialled, self._upstream = self._upstream, None
            session.tunnel(dialled)
            return False
        session.record(Reason.OK, up=one.bytes_up, down=one.bytes_down)
        if not one.keep and not one.complete:
            self.close()
            await self._linger()
        return one.keep

    async def _linger(self) -> None:
        """Let what the client is still sending run out: it would else reset the connection under the answer."""
        channel, seen = self._session.channel, 0
        with suppress(OSError, TimeoutError):
            channel.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(LINGER_S):
                while seen < LINGER_BYTES and (data := await channel.read()):
                    seen += len(data)

    async def _forward(self, one: Exchange, target: Target, path: bytes, host: bytes) -> None:
        """Raises like `Exchange.forward`, StaleError excepted."""
        try:
            try:
                kept = await self._connect(target, repeatable=one.repeatable)
                await one.forward(self._connected, path, host, kept=kept)
            except StaleError:
                self.close()
                await self._connect(target, repeatable=True)
                await one.forward(self._connected, path, host, kept=False)
        except BaseException:
            # It may have a part of the request, which is not the whole: no orderly end.
            if self._upstream is not None:
                self._upstream.channel.abort()
            self.close()
            raise
        if not one.reusable and not one.switched:
            self.close()
        self._kept_since = asyncio.get_running_loop().time()

    async def _connect(self, target: Target, *, repeatable: bool) -> bool:
        """Have a connection to `target`; True if it served a request before. Raises WireError."""
        session = self._session
        key = (target, session.want, session.user_name)
        kept = self._upstream
        if kept is not None and not (
            self._upstream_for == key
            and kept.channel.idle
            and session.worker.fleet.choosable(kept.node)
            and (repeatable or asyncio.get_running_loop().time() - self._kept_since < FRESH_S)
        ):
            self.close()
        if self._upstream is not None:
            session.dialled = self._upstream
            return True
        self._upstream = session.dialled = await dial(session, target)
        self._upstream_for = key
        return False

    @property
    def _connected(self) -> Dialled:
        assert self._upstream is not None  # noqa: S101 - set by _connect()
        return self._upstream

    async def _describe(self, head: Head) -> bytes:
        if head.method not in (b"GET", b"HEAD"):
            raise WireError(Reason.NOT_IMPLEMENTED, f"{INTERNAL_HOST} answers GET only")
        session = self._session
        allowed = session.user.allowed_countries if session.user else ()
        fleet = session.worker.fleet
        if not fleet.knows_session(session.want, session.owner):
            await fleet.recall_session(session.want, session.owner, allowed)
        node = fleet.choose(session.want, session.owner, allowed).node
        score = fleet.snapshot.scores.get(node.id)
        described = {
            "node": node.id,
            "country": node.country,
            "city": node.city,
            "exit_ip": node.exit_ip,
            "session": session.want.session,
            "score": score.value if score else None,
        }
        return json.dumps(described).encode() + b"\n"


async def serve(session: Session, head: Head, connect: Callable[[Session, Head], None]) -> None:
    """Answer requests until one becomes a tunnel (a CONNECT goes to `connect`), is refused, or the client leaves."""
    session.untimed()
    plain = PlainHttp(session)
    try:
        while await plain.exchange(head):
            session.dialled = None  # what comes next is not that exit's yet
            session.state = head = await _next_head(session)
            if head.method == b"CONNECT":
                session.handed_on()
                connect(session, head)
                return
    except ClientGoneError:
        pass
    finally:
        plain.close()


async def _next_head(session: Session) -> Head:
    """The next request on this connection. Raises ClientGoneError where none comes in time."""
    if not session.data:
        if session.worker.draining:
            raise ClientGoneError
        session.kept = True
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await more(session)
        except TimeoutError:
            raise ClientGoneError from None
        finally:
            session.kept = False
    try:
        async with asyncio.timeout(session.worker.settings.handshake_timeout):
            scanned = 0
            while (head := parse_head(session.data, scanned)) is None:
                scanned = len(session.data)
                await more(session)
    except TimeoutError:
        raise WireError(Reason.HANDSHAKE_TIMEOUT, "no complete request in time") from None
    return head


def _last_hop(head: Head) -> tuple[bytes, bytes]:
    """RFC 9110 section 7.6.2: at Max-Forwards 0 the answer is ours. Raises WireError for TRACE."""
    if head.method == b"TRACE":
        raise WireError(Reason.NOT_IMPLEMENTED, "Max-Forwards is 0, and this proxy does not reflect requests")
    return _OPTIONS
