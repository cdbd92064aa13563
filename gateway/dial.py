"""Turns a want and a target into a connected socket: choose a node, look the name up there, check the very address
that is dialled, connect; and another node if the first one failed by its own fault.

One deadline covers all tries. What the target refuses is not tried again. A dial needs no task while the node, its
sockets and the name are at hand, which is nearly always: it runs on the poller's events.
"""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from gateway import targets
from gateway.config import Network
from gateway.deadlines import Deadlines
from gateway.dialled import Dialled
from gateway.errors import DoubtfulError, LinkError, LookupFailedError
from gateway.links import Link
from gateway.metrics import Metrics
from gateway.poller import BROKEN, READ, Poller
from gateway.pools import Fleet
from gateway.want import Want
from gateway.wire.base import Target, WireError
from health.model import Node
from health.reasons import Reason

ADDRESSES_TRIED = 4
VERDICTS_KEPT = 16_384

# connect(2) and RFC 1928 section 6: what an error of the dial itself means. Anything else is the node's.
TARGET_ERRORS = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ECONNRESET: Reason.REFUSED,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
    errno.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reason.NETWORK_UNREACHABLE,
}


class Dialler:
    """Dials for one worker. `timeout` is the deadline for all tries together, in seconds."""

    def __init__(
        self, fleet: Fleet, poller: Poller, allow: Sequence[Network], timeout: float, metrics: Metrics
    ) -> None:
        self.fleet = fleet
        self.poller = poller
        self.metrics = metrics
        self.timeout = timeout
        self.deadlines = Deadlines(poller.loop, timeout)
        self.tasks: set[asyncio.Task[None]] = set()
        self._allow = tuple(allow)
        self.verdict = lru_cache(VERDICTS_KEPT)(self._judge)

    def start(
        self, want: Want, user: str, target: Target, allowed: Collection[str], done: "Callable[[Dial], None]"
    ) -> "Dial":
        """Begin to connect to `target` by the best node for `want`; `done(dial)` follows, perhaps before this returns.

        `dial.dialled` or `dial.error` is set then.
        """
        dial = Dial(self, want, user, target, allowed, done)
        dial.begin()
        return dial

    async def dial(self, want: Want, user: str, target: Target, allowed: Collection[str] = ()) -> Dialled:
        """Connect to `target` by the best node for `want`. Raises WireError with whose fault it was."""
        ended: asyncio.Future[None] = self.poller.loop.create_future()

        def done(_: "Dial") -> None:
            if not ended.done():
                ended.set_result(None)

        dial = self.start(want, user, target, allowed, done)
        try:
            await ended
        except asyncio.CancelledError:
            dial.cancel()
            raise
        return dial.result()

    def _judge(self, address: str, port: int) -> WireError | None:
        try:
            targets.check(ip_address(address), port, self._allow)
        except WireError as error:
            return error
        return None


class Dial:
    """One dial under way."""

    __slots__ = (
        "_addresses",
        "_allowed",
        "_at",
        "_dialler",
        "_done",
        "_doubted",
        "_failure",
        "_last",
        "_link",
        "_moved",
        "_node",
        "_retrying",
        "_sock",
        "_started",
        "_target",
        "_task",
        "_tried",
        "_user",
        "_want",
        "dialled",
        "error",
    )

    def __init__(
        self,
        dialler: Dialler,
        want: Want,
        user: str,
        target: Target,
        allowed: Collection[str],
        done: "Callable[[Dial], None]",
    ) -> None:
        self._dialler = dialler
        self._want = want
        self._user = user
        self._target = target
        self._allowed = allowed
        self._done: Callable[[Dial], None] | None = done
        self._started = time.monotonic()
        self._tried: tuple[str, ...] = ()
        self._last = ""
        self._doubted: tuple[str, ...] = ()
        self._retrying = False
        self._moved = ""
        self._node: Node | None = None
        self._link: Link | None = None
        self._sock: socket.SocketType | None = None
        self._addresses: Sequence[str] = ()
        self._at = 0
        self._failure: WireError | None = None
        self._task: asyncio.Task[None] | None = None
        self.dialled: Dialled | None = None
        self.error: WireError | None = None

    def result(self) -> Dialled:
        """What came of it. Raises WireError."""
        if self.dialled is None:
            raise self.error or WireError(Reason.INTERNAL, "the dial has no result")
        return self.dialled

    def begin(self) -> None:
        dialler, target = self._dialler, self._target
        if target.address is not None:
            refused = dialler.verdict(target.host, target.port)
            if refused is not None:
                self._end(refused)
                return
        dialler.deadlines.add(self)
        fleet = dialler.fleet
        if self._want.session is not None and not fleet.knows_session(self._want, self._user):
            self._wait(self._recall())
        else:
            self._choose()

    def expired(self) -> None:
        """The deadline of all tries has come."""
        self._end(WireError(Reason.TARGET_TIMEOUT, f"no connection to the target within {self._dialler.timeout:g} s"))

    def cancel(self) -> None:
        """Nobody wants it any more. Idempotent."""
        self._done = None
        if self.dialled is not None:
            self.dialled.release()
        else:
            self._end(WireError(Reason.CLIENT_RESET, "the client left"))

    def abort(self) -> None:
        """The node went away: another one may still do it."""
        if self._done is not None:
            self._drop()
            self._node_failed("the tunnel went down")

    def on_event(self, events: int) -> None:
        """The socket is connected, or has failed."""
        sock, link = self._sock, self._link
        if sock is None or link is None:
            return
        if events & BROKEN:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            self._drop()
            self._connect_failed(code, asynchronous=True)
            return
        link.dials.discard(self)
        self._sock = None
        self._connected(sock, events)

    async def _recall(self) -> None:
        await self._dialler.fleet.recall_session(self._want, self._user, self._allowed)
        self._choose()

    def _choose(self) -> None:
        """A node that was not tried yet, and there the addresses."""
        try:
            self._node, self._link, moved = self._dialler.fleet.choose(
                self._want, self._user, self._allowed, self._tried
            )
        except WireError as error:
            self._end(self._none_left(error))
            return
        self._moved = self._moved or moved
        self._at, self._failure = 0, None
        link, target = self._link, self._target
        if link.by_name:
            self._wait(self._open())
            return
        if target.address is not None:
            if not link.carries(target.host):
                self._end(WireError(Reason.ADDRESS_UNSUPPORTED, "this exit has no IPv6: use a name, or IPv4"))
                return
            addresses: Sequence[str] | None = (target.host,)
        else:
            addresses = link.cached(target.host)
        if addresses is None:
            self._wait(self._resolve())
        else:
            self._check(addresses)

    async def _resolve(self) -> None:
        link = self._link
        assert link is not None  # noqa: S101 - set by _choose
        try:
            addresses = await link.resolve(self._target.host)
        except LinkError as error:
            self._node_failed(str(error))
        except LookupFailedError as error:
            if link.usable:
                self._end(WireError(error.reason, "the name could not be resolved at the exit"))
            else:
                self._node_failed("the tunnel went down")
        else:
            self._check(addresses)

    def _check(self, addresses: Sequence[str]) -> None:
        # One forbidden address among the answers condemns them all: a mixed answer is an attack or a mistake.
        verdict, port = self._dialler.verdict, self._target.port
        here = self._link.verdict if self._link else verdict
        for address in addresses:
            refused = verdict(address, port) or here(address, port)
            if refused is not None:
                self._end(refused)
                return
        self._addresses = addresses
        self._connect()

    def _connect(self, sock: socket.SocketType | None = None) -> None:
        """Dial the next address."""
        link, at = self._link, self._at
        assert link is not None  # noqa: S101 - set by _choose
        if at >= len(self._addresses) or at >= ADDRESSES_TRIED:
            none = WireError(Reason.NAME_NOT_FOUND, "the name has no address that this exit can reach")
            self._end(self._failure or none)
            return
        address = self._addresses[at]
        if sock is None:
            sock = link.pop_socket(address)
            if sock is None:
                self._wait(self._fetch_socket(address))
                return
        self._at = at + 1
        code = sock.connect_ex((address, self._target.port))
        if code == errno.EINPROGRESS:
            self._sock = sock
            link.dials.add(self)
            self._dialler.poller.watch(sock.fileno(), self.on_event)
        elif code == 0:
            self._connected(sock, 0)
        else:
            sock.close()
            self._connect_failed(code, asynchronous=False)

    async def _fetch_socket(self, address: str) -> None:
        assert self._link is not None  # noqa: S101 - set by _choose
        try:
            sock = await self._link.fetch_socket(address)
        except LinkError as error:
            self._node_failed(str(error))
        else:
            self._connect(sock)

    async def _open(self) -> None:
        """By a link that takes the name itself (an upstream proxy)."""
        dialler, link, node = self._dialler, self._link, self._node
        assert link is not None  # noqa: S101 - set by _choose
        assert node is not None  # noqa: S101 - set by _choose
        left = dialler.timeout - (time.monotonic() - self._started)
        alone = not dialler.fleet.others(self._want, self._allowed, (*self._tried, node.id))
        try:
            channel = await link.open(dialler.poller, self._target, left, alone=alone)
        except LinkError as error:
            self._node_failed(str(error), doubtful=isinstance(error, DoubtfulError))
        except WireError as error:
            self._end(error)
        else:
            self._connected(channel.hand_over(), READ)

    def _connect_failed(self, code: int, *, asynchronous: bool) -> None:
        """An error of the call itself says nothing of the target; a later one only while the tunnel is up."""
        reason = TARGET_ERRORS.get(code)
        assert self._link is not None  # noqa: S101 - set by _choose
        if reason is None or not asynchronous or not self._link.usable:
            self._node_failed(f"the exit could not dial: {errno.errorcode.get(code, code)}")
            return
        self._failure = WireError(reason, f"dialled from {self._link.node_id}")
        self._connect()

    def _node_failed(self, why: str, *, doubtful: bool = False) -> None:
        """Another node, unless too many dials are being tried again. `doubtful`: it may have been the target."""
        node, link = self._node, self._link
        if self._done is None or node is None or link is None:
            return
        fleet = self._dialler.fleet
        self._dialler.metrics.dial_failed(node.country, node.id, Reason.NODE_DIAL)
        self._tried, self._last, self._node = (*self._tried, node.id), why, None
        if doubtful:
            self._doubted = (*self._doubted, node.id)
        else:
            fleet.failed(node.id)
        # A node that is hard-down is out of the choice: going on without it multiplies no load.
        if link.usable and not self._retrying:
            self._retrying = fleet.may_retry(fleet.in_flight)
            if not self._retrying:
                self._end(WireError(Reason.NODE_DIAL, f"{why}; too many others try again now"))
                return
        self._choose()

    def _none_left(self, error: WireError) -> WireError:
        """No node to choose: at first, or after those tried."""
        if not self._last:
            return error
        # One that went down meanwhile is no node any more; one that is up failed.
        up = self._link is not None and self._link.usable
        return WireError(
            Reason.NODE_DIAL if up else Reason.NO_NODE, f"{error.detail}; the last one tried: {self._last}"
        )

    def _reached(self, node: Node) -> None:
        """The target answered, with whatever."""
        fleet = self._dialler.fleet
        fleet.worked(node.id)
        for other in self._doubted:  # it was not the target, then
            fleet.failed(other)

    def _connected(self, sock: socket.SocketType, events: int) -> None:
        dialler, node, link, done = self._dialler, self._node, self._link, self._done
        assert node is not None  # noqa: S101 - set by _choose
        assert link is not None  # noqa: S101 - set by _choose
        seconds = time.monotonic() - self._started
        dialled = self.dialled = Dialled(dialler.poller, node, link, sock, seconds, events, self._moved)
        link.tunnels.add(dialled)
        dialler.deadlines.discard(self)
        if self._doubted or self._retrying:
            self._give_back()
        self._reached(node)
        dialler.metrics.dialled(node.country, node.id, seconds)
        self._done = None
        if done is not None:
            done(self)
        else:
            dialled.release()

    def _end(self, error: WireError) -> None:
        """It failed."""
        self._dialler.deadlines.discard(self)
        self.error = error
        self._drop()
        self._give_back()
        done, self._done = self._done, None
        if done is None:
            return
        if self._node is not None:
            if error.reason is Reason.REFUSED:
                self._reached(self._node)
            self._dialler.metrics.dial_failed(self._node.country, self._node.id, error.reason)
        done(self)

    def _give_back(self) -> None:
        if self._retrying:
            self._retrying = False
            self._dialler.fleet.retried()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = task = asyncio.create_task(work, name="dial")
        self._dialler.tasks.add(task)
        task.add_done_callback(self._dialler.tasks.discard)

    def _drop(self) -> None:
        """Close what is under way."""
        sock, self._sock = self._sock, None
        if sock is not None and self._link is not None:
            self._link.dials.discard(self)
            self._dialler.poller.forget(sock.fileno())
            sock.close()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
