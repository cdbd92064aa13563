"""The other side of an exit's agent: what the gateway, the collector and control use to ask it.

Trusts nothing: the peer must run under the agent's user id, what comes with truncated control data counts for nothing,
and a socket that lives in our own network namespace is closed, never used (it would leave from this machine).
"""

import asyncio
import ipaddress
import math
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from health.agent import protocol
from health.handover import HandoverError, adopt, close_all, received

_FAMILY = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
_TYPE = {"stream": socket.SOCK_STREAM, "dgram": socket.SOCK_DGRAM}
_ANCILLARY = socket.CMSG_SPACE(253 * 4)


class AgentError(Exception):
    """The agent is gone, refused, or answered nonsense: the node's fault."""


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says of itself. `tunnel` is starting, up or down; `families` those the tunnel carries."""

    node: str
    tunnel: str
    generation: int
    families: tuple[str, ...]
    kill_switch: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Addresses:
    """The answer to a look-up: addresses in the order given, how long they hold (seconds), or why there are none."""

    addresses: tuple[str, ...]
    ttl: float
    error: str = ""


class AgentClient:
    """One connection to one agent.

    `on_state(tunnel, generation)` is called for every pushed change, `on_close()` once when the agent goes away
    (also when this side gave up on it): neither before `connect` has returned nor after `close()`.
    """

    def __init__(
        self,
        path: str,
        *,
        on_state: Callable[[str, int], None] | None = None,
        on_close: Callable[[], None] | None = None,
        uid: int = protocol.AGENT_UID,
    ) -> None:
        self._path = path
        self._uid = uid
        self._on_state = on_state
        self._on_close = on_close
        self._socket: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        self._next_id = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._introduced = False
        self._early: tuple[str, int] | None = None

    async def connect(self, timeout: float = 1.0) -> Hello:
        """Connect, check who answers, and say hello. Raises AgentError within `timeout` seconds, and is closed then."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            _connect(sock, self._path)
            _pid, uid, _gid = struct.unpack(
                "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            )
            if uid != self._uid:
                raise AgentError(f"agent runs as user {uid}, expected {self._uid}")
        except OSError as error:
            sock.close()
            raise AgentError(f"agent not reachable: {error.strerror}") from None
        except AgentError:
            sock.close()
            raise
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)
        try:
            hello = await self.hello(timeout)
        except BaseException:
            self.close()
            raise
        if self._socket is None:
            raise AgentError("agent closed")
        self._introduced = True
        # A change pushed right behind the answer is newer than the answer.
        tunnel, generation = self._early or (hello.tunnel, hello.generation)
        return replace(hello, tunnel=tunnel, generation=generation)

    async def hello(self, timeout: float = 1.0) -> Hello:
        """Ask who it is and how its tunnel is."""
        message = await self._tell({"op": "hello"}, timeout)
        return Hello(
            node=str(message.get("node", "")),
            tunnel=str(message.get("tunnel", "down")),
            generation=_whole(message.get("generation", 0)),
            families=tuple(f for f in _texts(message.get("families", [])) if f in _FAMILY),
            kill_switch=message.get("kill_switch") is True,
            reason=str(message.get("reason", ""))[:500],
        )

    async def sockets(
        self, count: int, *, family: str = "inet", kind: str = "stream", timeout: float = 1.0
    ) -> tuple[int, list[socket.SocketType]]:
        """1 to `count` (at most 200) unconnected non-blocking sockets in the node's namespace, and their generation.

        Raises AgentError, also when one turns out to live in our own namespace or to be of another kind.
        """
        message, fds = await self._ask({"op": "sockets", "family": family, "type": kind, "n": count}, timeout)
        try:
            generation = _whole(message.get("generation", 0))
            if not 1 <= len(fds) <= count:
                raise AgentError(f"agent handed over {len(fds)} sockets, asked for {count}")
        except AgentError:
            close_all(fds)
            raise
        try:
            return generation, adopt(fds, _FAMILY[family], _TYPE[kind])
        except HandoverError as error:
            raise AgentError(str(error)) from None

    async def resolve(self, name: str, family: str = "inet", timeout: float = 5.0) -> Addresses:
        """Look `name` up through the tunnel's DNS. At most 32 addresses, each a number of the family asked for."""
        message = await self._tell({"op": "resolve", "name": name, "family": family}, timeout)
        version = 4 if family == "inet" else 6
        found = [_address(text, version) for text in _texts(message.get("addresses", []))[:32]]
        ttl = message.get("ttl", 0)
        known = isinstance(ttl, int | float) and math.isfinite(ttl) and ttl > 0
        return Addresses(tuple(found), float(ttl) if known else 0.0, str(message.get("lookup", ""))[:100])

    async def sample(self, timeout: float = 0.8) -> dict[str, Any]:
        """The agent's measurements, as health.model.Sample names them."""
        message = await self._tell({"op": "sample"}, timeout)
        sample = message.get("sample")
        if not isinstance(sample, dict):
            raise AgentError("agent sent no sample")
        return sample

    def close(self) -> None:
        """End the connection. Idempotent; `on_close` is not called."""
        self._introduced = False
        self._lost("closed")

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def _tell(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        answer, fds = await self._ask(message, timeout)
        close_all(fds)
        return answer

    async def _ask(self, message: dict[str, Any], timeout: float) -> tuple[dict[str, Any], list[int]]:
        if self._socket is None:
            raise AgentError("agent is gone")
        self._next_id += 1
        number = self._next_id
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            try:
                self._socket.send(protocol.encode({"id": number, **message}))
            except BlockingIOError:
                raise AgentError("agent does not read") from None
            except OSError as error:
                raise AgentError(f"agent is gone: {error.strerror}") from None
            except protocol.ProtocolError as error:
                raise AgentError(str(error)) from None
            async with asyncio.timeout(timeout):
                answer, fds = await future
        except BaseException as error:
            # The answer may come in the very turn in which we give up: its descriptors would be nobody's.
            if future.done() and not future.cancelled() and future.exception() is None:
                close_all(future.result()[1])
            if isinstance(error, TimeoutError):
                raise AgentError(f"agent did not answer within {timeout:g} s") from None
            raise
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            close_all(fds)
            raise AgentError(str(answer["error"])[:200])
        return answer, fds

    def _readable(self) -> None:
        for _ in range(64):
            if self._socket is None:
                return
            try:
                data, control, flags, _ = self._socket.recvmsg(
                    protocol.MAX_DATAGRAM, _ANCILLARY, socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return
            except OSError as error:
                self._lost(str(error.strerror))
                return
            fds = received(control)
            if not data or flags & socket.MSG_TRUNC:
                close_all(fds)
                self._lost("agent closed" if not data else "truncated message")
                return
            try:
                message = protocol.decode(data)
            except protocol.ProtocolError as error:
                close_all(fds)
                self._lost(str(error))
                return
            if flags & socket.MSG_CTRUNC:
                # There is room for all that a message can carry: it is this process that has no descriptors left, and
                # the end of this connection would be taken for the end of the node.
                close_all(fds)
                fds = []
                message["error"] = "descriptors were truncated: this process has none left (ulimit -n)"
            self._dispatch(message, fds)

    def _dispatch(self, message: dict[str, Any], fds: list[int]) -> None:
        op, number = message.get("op"), message.get("id")
        future = self._waiting.get(number) if type(number) is int else None
        if future is not None and not future.done():
            self._early = None
            future.set_result((message, fds))
            return
        close_all(fds)
        if number is not None or op not in ("up", "down"):
            return
        try:
            generation = _whole(message.get("generation", 0))
        except AgentError as error:
            self._lost(str(error))
            return
        if not self._introduced:
            self._early = (op, generation)
        elif self._on_state is not None:
            self._on_state(op, generation)

    def _lost(self, why: str) -> None:
        sock, self._socket = self._socket, None
        if sock is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(sock)
        sock.close()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(AgentError(why))
        if self._introduced and self._on_close is not None:
            self._introduced = False
            self._on_close()


def _connect(sock: socket.socket, path: str) -> None:
    # sun_path holds 108 bytes; a directory handle keeps long state directories usable.
    if len(os.fsencode(path)) < 108:
        sock.connect(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise AgentError("agent answered nonsense: a number is wrong")
    return value


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise AgentError("agent answered nonsense: a list is wrong")
    return value


def _address(text: str, version: int) -> str:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or address.version != version or "%" in text:
        raise AgentError("agent answered nonsense: an address is wrong")
    return str(address)
