"""Turns a want and a target into a connected socket: choose a node, look the name up there, check the very address
that is dialled, connect; and another node if the first one failed by its own fault.

One deadline covers all tries. What the target refuses is not tried again. A dial without an answer for half a second is
tried by another node as well, and the first of the two to be connected serves: a tunnel can be dead for seconds before
that is known. A dial needs no task while the node, its
sockets and the name are at hand, which is nearly always: it runs on the poller's events.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from gateway import dial_tasks as tasks
from gateway import targets
from gateway.balance import RetryBudget
from gateway.config import Network
from gateway.deadlines import Deadlines
from gateway.dialled import Dialled
from gateway.links import Link
from gateway.metrics import Metrics
from gateway.poller import BROKEN, Poller
from gateway.pools import Fleet
from gateway.roster import Choice
from gateway.want import Want
from gateway.wire.base import Target, WireError
from health.model import Node
from health.reasons import Reason

ADDRESSES_TRIED = 4
PATIENCE_S = 0.5
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
        patient = timeout > PATIENCE_S
        self.deadlines = Deadlines(poller.loop, timeout - PATIENCE_S if patient else timeout)
        self.patience = Deadlines(poller.loop, PATIENCE_S) if patient else self.deadlines
        # Their own budget: those that wait for a dead target for seconds must not use up that of retries.
        self.seconds = RetryBudget()
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
        "_at",
        "_clock",
        "_done",
        "_doubted",
        "_failure",
        "_last",
        "_moved",
        "_retrying",
        "_second",
        "_since",
        "_sock",
        "_task",
        "allowed",
        "dialled",
        "dialler",
        "error",
        "link",
        "node",
        "started",
        "target",
        "tried",
        "user",
        "want",
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
        self.dialler = dialler
        self.want = want
        self.user = user
        self.target = target
        self.allowed = allowed
        self._done: Callable[[Dial], None] | None = done
        self.started = self._since = time.monotonic()
        self.tried: tuple[str, ...] = ()
        self._last = ""
        self._doubted: tuple[str, ...] = ()
        self._retrying = False
        self._moved = ""
        self.node: Node | None = None
        self.link: Link | None = None
        self._sock: socket.SocketType | None = None
        self._addresses: Sequence[str] = ()
        self._at = 0
        self._failure: WireError | None = None
        self._task: asyncio.Task[None] | None = None
        self._clock = dialler.patience
        self._second: Dial | None = None
        self.dialled: Dialled | None = None
        self.error: WireError | None = None

    def result(self) -> Dialled:
        """What came of it. Raises WireError."""
        if self.dialled is None:
            raise self.error or WireError(Reason.INTERNAL, "the dial has no result")
        return self.dialled

    @property
    def chosen(self) -> Link:
        """The link of the node that is being tried."""
        assert self.link is not None  # noqa: S101 - set by choose()
        return self.link

    def begin(self) -> None:
        dialler, target = self.dialler, self.target
        if target.address is not None:
            refused = dialler.verdict(target.host, target.port)
            if refused is not None:
                self.end(refused)
                return
        self._clock.add(self)
        fleet = dialler.fleet
        if self.want.session is not None and not fleet.knows_session(self.want, self.user):
            self._wait(tasks.recall(self))
        else:
            self.choose()

    def expired(self) -> None:
        """No answer for half a second; or the deadline of all tries has come."""
        if self._clock is not self.dialler.deadlines:
            self._clock = self.dialler.deadlines
            self._clock.add(self)
            self._by_another()
            return
        within, node = f"within {self.dialler.timeout:g} s", self.node
        if self._sock is None and node is not None and self.link is not None and not self.link.by_name:
            if not self._addresses:  # by the exit's fault or the name's
                self.end(WireError(Reason.NAME_LOOKUP, f"the exit had no answer for the name {within}"))
                return
            self.dialler.fleet.failed(node.id)
            self.end(WireError(Reason.NODE_DIAL, f"the exit gave no socket {within}"))
            return
        self.end(WireError(Reason.TARGET_TIMEOUT, f"no connection to the target {within}"))

    def cancel(self) -> None:
        """Nobody wants it any more. Idempotent."""
        self._done = None
        if self.dialled is not None:
            self.dialled.release()
        else:
            self.end(WireError(Reason.CLIENT_RESET, "the client left"))

    def abort(self) -> None:
        """The node went away: another one may still do it."""
        if self._done is not None:
            self._drop()
            self.node_failed("the tunnel went down")

    def on_event(self, events: int) -> None:
        """The socket is connected, or has failed."""
        sock, link = self._sock, self.link
        if sock is None or link is None:
            return
        if events & BROKEN:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or errno.ECONNRESET
            self._drop()
            self._connect_failed(code, asynchronous=True)
            return
        link.dials.discard(self)
        self._sock = None
        self.connected(sock, events)

    def choose(self) -> None:
        """A node that was not tried yet, and there the addresses."""
        try:
            self.node, self.link, moved = self._choice()
        except WireError as error:
            self.end(self._none_left(error))
            return
        self._moved = self._moved or moved
        self._addresses, self._at, self._failure = (), 0, None
        if self.tried:
            self.count_from_now()
        link, target = self.link, self.target
        if link.by_name:
            self._wait(tasks.open_by_name(self))
            return
        if target.address is not None:
            if not link.carries(target.host):
                self.end(WireError(Reason.ADDRESS_UNSUPPORTED, "this exit has no IPv6: use a name, or IPv4"))
                return
            addresses: Sequence[str] | None = (target.host,)
        else:
            addresses = link.cached(target.host)
        if addresses is None:
            self._wait(tasks.resolve(self))
        else:
            self.check(addresses)

    def count_from_now(self) -> None:
        """What was waited for until now is not to be taken for the node's slowness."""
        self._since = time.monotonic()

    def _choice(self) -> Choice:
        fleet, want = self.dialler.fleet, self.want
        if want.session is None:  # nearly always; the roster is compiled, the fleet is not
            seat = fleet.roster.choose(want, self.allowed, self.tried, time.monotonic())
            if seat is not None:
                return seat.choice
        return fleet.choose(want, self.user, self.allowed, self.tried)

    def check(self, addresses: Sequence[str]) -> None:
        """Dial the addresses of the name, if all of them may be dialled."""
        # One forbidden address among the answers condemns them all: a mixed answer is an attack or a mistake.
        verdict, port = self.dialler.verdict, self.target.port
        here = self.link.verdict if self.link else verdict
        for address in addresses:
            refused = verdict(address, port) or here(address, port)
            if refused is not None:
                self.end(refused)
                return
        self._addresses = addresses
        self.connect()

    def connect(self, sock: socket.SocketType | None = None) -> None:
        """Dial the next address."""
        link, at = self.link, self._at
        assert link is not None  # noqa: S101 - set by choose()
        if at >= len(self._addresses) or at >= ADDRESSES_TRIED:
            none = WireError(Reason.NAME_NOT_FOUND, "the name has no address that this exit can reach")
            self.end(self._failure or none)
            return
        address = self._addresses[at]
        if sock is None:
            sock = link.pop_socket(address)
            if sock is None:
                self._wait(tasks.fetch_socket(self, address))
                return
        self._at = at + 1
        code = sock.connect_ex((address, self.target.port))
        if code == errno.EINPROGRESS:
            self._sock = sock
            link.dials.add(self)
            self.dialler.poller.watch(sock.fileno(), self.on_event)
        elif code == 0:
            self.connected(sock, 0)
        else:
            sock.close()
            self._connect_failed(code, asynchronous=False)

    def _connect_failed(self, code: int, *, asynchronous: bool) -> None:
        """An error of the call itself says nothing of the target; a later one only while the tunnel is up."""
        reason = TARGET_ERRORS.get(code)
        assert self.link is not None  # noqa: S101 - set by choose()
        if reason is None or not asynchronous or not self.link.usable:
            self.node_failed(f"the exit could not dial: {os.strerror(code)}")
            return
        self._failure = WireError(reason, f"dialled from {self.link.node_id}")
        self.connect()

    def _by_another(self) -> None:
        """Begin a second dial by another node, where that may be: nobody asked for this one, and few do the same."""
        fleet, node, link, want = self.dialler.fleet, self.node, self.link, self.want
        if node is None or link is None or link.by_name or want.node is not None or want.session is not None:
            return
        tried = (*self.tried, node.id)
        if not fleet.others(want, self.allowed, tried) or not self.dialler.seconds.take(fleet.in_flight):
            return
        second = self._second = Dial(self.dialler, want, self.user, self.target, self.allowed, self._second_done)
        second.tried, second._clock = tried, self.dialler.deadlines
        second.begin()

    def _second_done(self, second: "Dial") -> None:
        """The second dial is connected, or has failed: then the first goes on, unless it has failed before."""
        self._second = None
        self.dialler.seconds.give_back()
        dialled, node = second.dialled, self.node
        if dialled is None:
            if node is None:
                self.end(second.error or WireError(Reason.INTERNAL, ""))
            return
        self._clock.discard(self)
        self._drop()
        self._give_back()
        if node is not None:  # no verdict on it: a site may let nothing in from this exit and never say so
            self.dialler.metrics.dial_failed(node.country, node.id, Reason.TARGET_TIMEOUT)
        self.node, self.link, self.dialled = second.node, second.link, dialled
        done, self._done = self._done, None
        if done is not None:
            done(self)
        else:
            dialled.release()

    def _no_second(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            self.dialler.seconds.give_back()
            second.cancel()

    def node_failed(self, why: str, *, doubtful: bool = False) -> None:
        """Another node, unless too many dials are being tried again. `doubtful`: it may have been the target."""
        node, link = self.node, self.link
        if self._done is None or node is None or link is None:
            return
        fleet = self.dialler.fleet
        self.dialler.metrics.dial_failed(node.country, node.id, Reason.NODE_DIAL)
        self.tried, self._last, self.node = (*self.tried, node.id), why, None
        if doubtful:
            self._doubted = (*self._doubted, node.id)
        else:
            fleet.failed(node.id)
        if self._second is not None:  # another node is being tried already
            return
        # A node that is hard-down is out of the choice: going on without it multiplies no load.
        if link.usable and not self._retrying:
            self._retrying = fleet.may_retry(fleet.in_flight)
            if not self._retrying:
                self.end(WireError(Reason.NODE_DIAL, f"{why}; too many others try again now"))
                return
        self.choose()

    def _none_left(self, error: WireError) -> WireError:
        """No node to choose: at first, or after those tried."""
        if not self._last:
            return error
        # One that went down meanwhile is no node any more; one that is up failed.
        up = self.link is not None and self.link.usable
        why = "no other exit is serving there" if up and error.reason is Reason.NO_NODE else error.detail
        return WireError(Reason.NODE_DIAL if up else Reason.NO_NODE, f"{why}; the last one tried: {self._last}")

    def _reached(self, node: Node, now: float) -> None:
        """The target answered, with whatever."""
        fleet = self.dialler.fleet
        fleet.roster.worked(node.id, now - self._since)
        for other in self._doubted:  # it was not the target, then
            fleet.failed(other)

    def connected(self, sock: socket.SocketType, events: int) -> None:
        """The socket is connected to the target; `events` are those nobody has read for yet."""
        dialler, node, link, done = self.dialler, self.node, self.link, self._done
        assert node is not None  # noqa: S101 - set by choose()
        assert link is not None  # noqa: S101 - set by choose()
        now = time.monotonic()
        seconds = now - self.started
        dialled = self.dialled = Dialled(dialler.poller, node, link, sock, seconds, events, self._moved)
        link.tunnels.add(dialled)
        self._clock.discard(self)
        if self._second is not None:
            self._no_second()
        if self._doubted or self._retrying:
            self._give_back()
        self._reached(node, now)
        dialler.metrics.dialled(node.country, node.id, seconds)
        self._done = None
        if done is not None:
            done(self)
        else:
            dialled.release()

    def end(self, error: WireError) -> None:
        """It failed for good."""
        self._clock.discard(self)
        self._no_second()
        self.error = error
        self._drop()
        self._give_back()
        done, self._done = self._done, None
        if done is None:
            return
        if self.node is not None:
            if error.reason is Reason.REFUSED:
                self._reached(self.node, time.monotonic())
            self.dialler.metrics.dial_failed(self.node.country, self.node.id, error.reason)
        done(self)

    def _give_back(self) -> None:
        if self._retrying:
            self._retrying = False
            self.dialler.fleet.retried()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = task = asyncio.create_task(work, name="dial")
        self.dialler.tasks.add(task)
        task.add_done_callback(self.dialler.tasks.discard)

    def _drop(self) -> None:
        """Close what is under way."""
        sock, self._sock = self._sock, None
        if sock is not None and self.link is not None:
            self.link.dials.discard(self)
            self.dialler.poller.forget(sock.fileno())
            sock.close()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
