"""One plain HTTP request and its answer, carried between a client and a target (RFC 9110 section 7, RFC 9112).

Each direction pumps by itself. A cut must be seen: a body whose end the target tells by closing goes on in chunks, so
that a client speaking HTTP/1.1 misses the last one even where the reset becomes a plain close on the way (behind
HAProxy it may). HTTP/1.0 has no such means. Which target, and whether its connection is used again, is `plain_http`'s.
"""

import asyncio
import socket
import time
from contextlib import suppress

from gateway.channel import AbortedError
from gateway.dialled import Dialled
from gateway.errors import ClientGoneError
from gateway.paced import write_paced
from gateway.session import Session
from gateway.wire.base import WireError
from gateway.wire.http_body import (
    Body,
    Sized,
    UntilClose,
    answer_body,
    chunk,
    last_chunk,
    request_body,
)
from gateway.wire.http_head import Answer, Field, Head, parse_answer
from gateway.wire.http_rules import (
    agrees_to_websocket,
    connection_options,
    forward_headers,
    forward_trailers,
    response_headers,
    wants_websocket,
    write_head,
)
from health.reasons import Reason

# RFC 9110 section 9.2.2: what may be asked twice.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
# A client that stops sending a body whose answer it already has is waited for so long.
EARLY_S = 5.0
# How often an exchange is looked at: its client may have gone with a reset, or nothing passes any more.
WATCH_S = 2.0


class CutOffError(Exception):
    """The answer was begun and cannot be completed; the client must see that, so its connection is reset."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class StaleError(Exception):
    """A kept connection ended before the target had said a word: the request may be sent once more, on a new one."""


class Exchange:
    """One request, whose head is `head`, and its answer.

    Afterwards: `keep`, the client may send another request; `complete`, its body was read to the end; `reusable`, so
    may we to the target; `switched`, both sides speak WebSocket from here on.
    """

    def __init__(self, session: Session, head: Head) -> None:
        self.bytes_up = 0
        self.bytes_down = 0
        self.keep = False
        self.reusable = False
        self.switched = False
        self._session = session
        self._head = head
        self._modern = head.version != b"1.0"
        self._client_stays = self._modern and b"close" not in connection_options(head.headers)
        self._upgrade = wants_websocket(head)
        self._body = request_body(head)
        self._first, session.data = self._body.feed(session.data[head.consumed :])
        self.repeatable = self._body.done and head.method in IDEMPOTENT
        self._answered = False
        self._continued = False
        self._broken: Exception | None = None
        self._began = self._passed_at = time.monotonic()
        self._seen = 0

    @property
    def complete(self) -> bool:
        """Whether the request's body was read to its end."""
        return self._body.done

    @property
    def passed(self) -> int:
        return self.bytes_up + self.bytes_down

    def end(self, reason: Reason) -> None:
        """Break it off; the client is told why, if it was told nothing yet."""
        self._lose_client(WireError(reason, ""))
        if self._answered:  # it may be the client that takes no more
            self._session.channel.abort()

    async def reply(self, status: bytes, fields: list[Field], body: bytes) -> None:
        """Answer from here, without a target."""
        self.keep = self._may_keep()
        length = (b"Content-Length", b"%d" % len(body))
        head = write_head(b"HTTP/1.1 " + status, [*fields, self._id(), length, *self._last_words()])
        await self._to_client(head if self._head.method == b"HEAD" else head + body)

    async def forward(self, dialled: Dialled, path: bytes, host: bytes, *, kept: bool) -> None:
        """Carry the request to the target and the answer back. `kept`: the connection served a request before.

        Raises:
            WireError: nothing was answered yet.
            CutOffError: part of the answer was sent.
            StaleError: the request is `repeatable`, and the kept connection had ended.
            ClientGoneError, OSError: the client's side failed.
        """
        self._target = dialled
        self._stale = kept and self.repeatable  # until the target says a word
        self._received = bytearray()
        head = write_head(
            b"%b %b HTTP/1.1" % (self._head.method, path), forward_headers(self._head, host, upgrade=self._upgrade)
        )
        self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._watch)
        self._session.traffic = self
        try:
            await self._to_target(head + self._framed(self._first))
            if self._body.done:
                await self._answer(None)
            else:
                await self._both_ways()
        finally:
            self._session.traffic = None
            self._timer.cancel()

    async def _both_ways(self) -> None:
        upload = asyncio.create_task(self._upload(), name="upload")
        try:
            await self._answer(upload)
        finally:
            upload.cancel()
            with suppress(asyncio.CancelledError):
                await upload

    async def _upload(self) -> None:
        channel = self._session.channel
        try:
            while not self._body.done:
                data = await channel.read()
                if not data:
                    raise ClientGoneError
                payload, self._session.data = self._body.feed(data)
                if not await self._to_target(self._framed(payload)):
                    return
        except (WireError, ClientGoneError, OSError) as error:
            self._lose_client(error)

    def _framed(self, payload: bytes) -> bytes:
        """`payload` of the request, and the end of its body, as they go to the target."""
        if isinstance(self._body, Sized):
            return payload
        end = last_chunk(forward_trailers(self._body.trailers)) if self._body.done else b""
        return chunk(payload) + end

    async def _answer(self, upload: "asyncio.Task[None] | None") -> None:
        answer = await self._final_answer()
        if answer.status == 101:
            await self._switch(answer)
            return
        body = answer_body(answer, self._head.method)
        # Bytes behind a declined upgrade were meant for another protocol: they must not run as a request (RFC 9931).
        self.keep = self._may_keep() and not (self._upgrade and self._session.data)
        rest = await self._download(answer, body)
        stays = answer.version != b"1.0" and b"close" not in connection_options(answer.headers)
        stays = stays and not rest and not isinstance(body, UntilClose)
        if upload is not None and stays:
            await self._let_finish(upload)
        self.reusable = stays and (upload is None or (upload.done() and self._body.done))

    async def _final_answer(self) -> Answer:
        while True:
            answer = await self._next_head()
            if answer.status == 101 or answer.status >= 200:
                return answer
            if self._modern:  # RFC 9110 section 15.2: HTTP/1.0 knows no interim answers
                self._continued |= answer.status == 100
                await self._to_client(write_head(_status_line(answer), response_headers(answer)))

    async def _next_head(self) -> Answer:
        scanned = 0
        while (answer := parse_answer(self._received, scanned)) is None:
            scanned = len(self._received)
            data = await self._from_target()
            if not data:
                raise self._failed(Reason.TARGET_RESET, "it closed the connection without an answer")
            self._received += data
        del self._received[: answer.consumed]
        return answer

    async def _switch(self, answer: Answer) -> None:
        if not self._upgrade or not agrees_to_websocket(answer):
            raise self._failed(Reason.TARGET_PROTOCOL, "the target switched protocols unasked")
        fields = response_headers(answer, upgrade=True)
        await self._to_client(write_head(_status_line(answer), [*fields, *self._ours()]) + self._received)
        self.switched = True

    async def _download(self, answer: Answer, body: Body) -> bytes:
        """Carry the final answer; returns what the target sent beyond its end."""
        chunked = self._modern and not isinstance(body, Sized)
        framing = [(b"Transfer-Encoding", b"chunked")] if chunked else []
        fields = [*response_headers(answer), *self._ours(), *framing, *self._last_words()]
        out, data = write_head(_status_line(answer), fields), bytes(self._received)
        while True:
            payload, rest = self._take(body, data)
            out += chunk(payload) if chunked else payload
            if body.done and chunked:
                out += last_chunk(forward_trailers(body.trailers))
            if out:
                self._answered = True
                await self._to_client(out)
            if body.done:
                return rest
            out, data = b"", await self._from_target()
            if not data:
                self._end(body)

    def _take(self, body: Body, data: bytes) -> tuple[bytes, bytes]:
        try:
            return body.feed(data)
        except WireError as error:
            raise self._failed(Reason.TARGET_PROTOCOL, error.detail) from None

    def _end(self, body: Body) -> None:
        try:
            body.end()
        except WireError as error:
            raise self._failed(Reason.TARGET_RESET, error.detail) from None

    async def _let_finish(self, upload: "asyncio.Task[None]") -> None:
        """The answer is complete, the request is not: a target that stays connected may want the rest of it."""
        unasked = b"100-continue" in (value.lower() for value in self._head.values(b"expect")) and not self._continued
        moved = -1
        while not unasked and self.bytes_up != moved and not upload.done():
            moved = self.bytes_up
            await asyncio.wait({upload}, timeout=EARLY_S)

    async def _from_target(self) -> bytes:
        """Some bytes, or b"" at the end."""
        failure, data = None, b""
        try:
            data = await self._target.channel.read()
        except OSError:
            failure = self._failed(Reason.TARGET_RESET if self._target.link.usable else Reason.NODE_LOST)
        if not data and self._stale:
            raise StaleError
        if failure is not None:
            if self._target.link.usable:
                self._session.cut_off()
            raise failure
        self._stale = False
        if self._target.since:
            self._session.first_byte()
        return data

    async def _to_target(self, data: bytes) -> bool:
        """False when the target takes no more: its answer, or the lack of one, says why."""
        grant = self._session.grant
        try:
            await write_paced(self._target.channel, data, grant.up if grant else None)
        except OSError:
            return False
        self.bytes_up += len(data)
        return True

    async def _to_client(self, data: bytes) -> None:
        grant = self._session.grant
        if grant is not None and grant.exhausted:
            raise self._failed(Reason.QUOTA_USED)
        try:
            await write_paced(self._session.channel, data, grant.down if grant else None)
        except AbortedError:
            if isinstance(self._broken, WireError):
                raise self._failed(self._broken.reason) from None
            raise
        self.bytes_down += len(data)

    def _watch(self) -> None:
        """A reset by the client wakes nobody who waits for the target, nor does a target that never answers."""
        if self._session.channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose_client(ClientGoneError())
        elif (reason := self._overdue()) is not None:
            self.end(reason)
        else:
            self._timer = asyncio.get_running_loop().call_later(WATCH_S, self._watch)

    def _overdue(self) -> Reason | None:
        """Why it has lasted long enough: the time-outs of tunnels."""
        now, settings = time.monotonic(), self._session.worker.settings
        if self.passed != self._seen:
            self._seen, self._passed_at = self.passed, now
        if now - self._passed_at > settings.idle_timeout:
            return Reason.IDLE_TIMEOUT
        return Reason.LIFETIME if now - self._began > settings.max_lifetime else None

    def _lose_client(self, error: Exception) -> None:
        # The target must not take a cut-off body for a whole one.
        self._broken, self._stale = self._broken or error, False
        self._target.channel.abort()

    def _failed(self, reason: Reason, detail: str = "") -> Exception:
        if not self._answered:
            return self._broken or WireError(reason, detail)
        if self._broken is None:
            return CutOffError(reason)
        return CutOffError(self._broken.reason if isinstance(self._broken, WireError) else Reason.CLIENT_RESET)

    def _ours(self) -> list[Field]:
        node = self._target.node
        return [(b"X-Exit-Node", node.id.encode()), (b"X-Exit-Country", node.country.encode()), self._id()]

    def _id(self) -> Field:
        return b"X-Request-Id", self._session.conn_id.encode()

    def _may_keep(self) -> bool:
        return self._client_stays and self._body.done and not self._session.worker.draining

    def _last_words(self) -> list[Field]:
        return [] if self.keep else [(b"Connection", b"close")]


def _status_line(answer: Answer) -> bytes:
    return b"HTTP/1.1 %d %b" % (answer.status, answer.phrase)
