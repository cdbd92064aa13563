"""Absolute-form HTTP requests, forwarded as an intermediary (RFC 9110 section 7, RFC 9112). h11 does the framing.

One client connection may ask for changing targets; the connection to the last target is kept while it is idle and its
node is still the right one. Nothing is sent twice: once a byte of the request left, a failure is told, not retried.
"""

import asyncio
import contextlib
import json

import h11

from gateway.dial import Dialled
from gateway.session import ClientGoneError, Session
from gateway.want import Want
from gateway.wire.base import Target, WireError
from gateway.wire.http_connect import absolute_target, credentials
from gateway.wire.http_head import Head
from gateway.wire.http_rules import check_framing, forward_headers, response_headers
from health.reasons import Reason

INTERNAL_HOST = "vpnexit.internal"
_HEAD_LIMIT = 128 * 1024


class CutOffError(Exception):
    """The response cannot be completed; the client must see that, so its connection is reset."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class PlainHttp:
    """The exchanges of one client connection. `used` is true once a request was answered."""

    def __init__(self, session: Session) -> None:
        self.used = False
        self._session = session
        self._upstream: Dialled | None = None
        self._upstream_for: tuple[Target, Want, str] | None = None

    async def exchange(self, head: Head) -> bool:
        """Answer one request; True if the client may send another.

        Raises WireError while nothing was answered yet.
        """
        check_framing(head)
        target, path, host = absolute_target(head)
        await self._session.identify(credentials(head))
        self.used = True
        one = _Exchange(self._session, head)
        if target.host == INTERNAL_HOST:
            return await one.answer(*self._describe(head))
        dialled = await self._upstream_to(target)
        try:
            reusable = await one.forward(dialled, path, host)
        except CutOffError as error:
            self.close()
            self._session.record(error.reason, up=one.bytes_up, down=one.bytes_down)
            self._session.channel.abort()
            return False
        except BaseException:
            self.close()
            raise
        self._session.record(Reason.OK, up=one.bytes_up, down=one.bytes_down)
        if not reusable:
            self.close()
        return one.finish()

    def close(self) -> None:
        """End the connection to the last target. Idempotent."""
        if self._upstream is not None:
            self._upstream.release()
            self._upstream = None

    async def _upstream_to(self, target: Target) -> Dialled:
        session = self._session
        key = (target, session.want, session.user_name)
        kept = self._upstream
        if kept is not None and (
            self._upstream_for != key or not kept.channel.idle or not session.worker.fleet.choosable(kept.node)
        ):
            self.close()
        if self._upstream is None:
            self._upstream = await session.dial(target)
            self._upstream_for = key
        session.dialled = self._upstream
        return self._upstream

    def _describe(self, head: Head) -> tuple[int, bytes]:
        if head.method not in (b"GET", b"HEAD"):
            raise WireError(Reason.NOT_IMPLEMENTED, f"{INTERNAL_HOST} answers GET only")
        session = self._session
        allowed = session.user.allowed_countries if session.user else ()
        node, _link = session.worker.fleet.choose(session.want, session.user_name, allowed)
        score = session.worker.fleet.snapshot.scores.get(node.id)
        described = {
            "node": node.id,
            "country": node.country,
            "city": node.city,
            "exit_ip": node.exit_ip,
            "session": session.want.session,
            "score": score.value if score else None,
        }
        return 200, json.dumps(described).encode() + b"\n"


class _Exchange:
    """One request and its response."""

    def __init__(self, session: Session, head: Head) -> None:
        self._session = session
        self._head = head
        self._client = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        self.bytes_up = 0
        self.bytes_down = 0
        self._answering = False
        self._request: h11.Request | None = None

    async def answer(self, status: int, body: bytes) -> bool:
        """Answer from here, without a target."""
        self._read_request()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._to_client(h11.Response(status_code=status, headers=headers))
        if self._head.method != b"HEAD":
            await self._to_client(h11.Data(data=body))
        await self._to_client(h11.EndOfMessage())
        await self._discard_body()
        self._session.record(Reason.OK, down=self.bytes_down)
        return self.finish()

    async def forward(self, dialled: Dialled, path: bytes, host: bytes) -> bool:
        """Carry the request to the target and the response back; True if the target's connection can be kept."""
        request = self._read_request()
        target = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
        headers = forward_headers(self._head, host)
        upload = asyncio.create_task(
            self._upload(dialled, target, h11.Request(method=request.method, target=path, headers=headers)),
            name="upload",
        )
        try:
            await self._download(dialled, target)
        except WireError:
            # A request that the client broke off or malformed is its own fault, not the target's.
            if upload.done() and not upload.cancelled():
                cause = upload.exception()
                if isinstance(cause, WireError | ClientGoneError):
                    raise cause from None
            raise
        finally:
            upload.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError, ClientGoneError, WireError, h11.ProtocolError):
                await upload
        return target.our_state is h11.DONE and target.their_state is h11.DONE and not target.trailing_data[0]

    def finish(self) -> bool:
        """Keep what the client sent beyond this request; True if the connection stays open."""
        if self._client.our_state is h11.DONE and self._client.their_state is h11.DONE:
            self._session.data = self._client.trailing_data[0]
            return True
        return False

    def _read_request(self) -> h11.Request:
        self._client.receive_data(self._session.data)
        self._session.data = b""
        try:
            event = self._client.next_event()
        except h11.RemoteProtocolError as error:
            raise WireError(Reason.BAD_REQUEST, f"the request is malformed: {error}") from None
        if not isinstance(event, h11.Request):
            raise WireError(Reason.BAD_REQUEST, "the request head is incomplete")
        return event

    async def _upload(self, dialled: Dialled, target: h11.Connection, request: h11.Request) -> None:
        await self._send(dialled, target.send(request))
        while True:
            try:
                event = self._client.next_event()
            except h11.RemoteProtocolError as error:
                # The target must not take a cut-off body for a whole one.
                dialled.channel.abort()
                raise WireError(Reason.BAD_REQUEST, f"the request body is malformed: {error}") from None
            if event is h11.NEED_DATA:
                chunk = await self._session.channel.read()
                if not chunk:
                    dialled.channel.abort()
                    raise ClientGoneError
                self._client.receive_data(chunk)
            elif isinstance(event, h11.Data):
                await self._send(dialled, target.send(h11.Data(data=event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self._send(dialled, target.send(h11.EndOfMessage()))
                return
            else:
                return

    async def _download(self, dialled: Dialled, target: h11.Connection) -> None:
        while True:
            event = await self._next_from(dialled, target)
            if isinstance(event, h11.InformationalResponse):
                if event.status_code != 101:
                    await self._to_client(
                        h11.InformationalResponse(
                            status_code=event.status_code,
                            headers=response_headers(event.headers.raw_items(), event.http_version),
                            reason=event.reason,
                        )
                    )
            elif isinstance(event, h11.Response):
                headers = response_headers(event.headers.raw_items(), event.http_version)
                headers.append((b"X-Exit-Node", dialled.node.id.encode()))
                headers.append((b"X-Exit-Country", dialled.node.country.encode()))
                self._answering = True
                await self._to_client(h11.Response(status_code=event.status_code, headers=headers, reason=event.reason))
            elif isinstance(event, h11.Data):
                await self._to_client(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._to_client(h11.EndOfMessage())
                return
            else:
                raise self._failed(Reason.TARGET_RESET)

    async def _next_from(self, dialled: Dialled, target: h11.Connection) -> h11.Event:
        try:
            while isinstance(event := target.next_event(), type):
                if event is h11.PAUSED:
                    raise self._failed(Reason.TARGET_PROTOCOL, "the target sent more than one answer")
                target.receive_data(await dialled.channel.read())
        except h11.RemoteProtocolError as error:
            raise self._failed(Reason.TARGET_PROTOCOL, str(error)) from None
        except OSError:
            reason = Reason.TARGET_RESET if dialled.link.usable else Reason.NODE_LOST
            raise self._failed(reason) from None
        return event

    def _failed(self, reason: Reason, detail: str = "") -> Exception:
        return CutOffError(reason) if self._answering else WireError(reason, detail)

    async def _discard_body(self) -> None:
        with contextlib.suppress(h11.RemoteProtocolError):
            while isinstance(self._client.next_event(), h11.Data):
                pass

    async def _send(self, dialled: Dialled, data: bytes | None) -> None:
        if data:
            await dialled.channel.write(data)
            self.bytes_up += len(data)

    async def _to_client(self, event: h11.Event) -> None:
        data = self._client.send(event)
        if data:
            await self._session.channel.write(data)
            self.bytes_down += len(data)
