"""Docker Engine through its SDK, off the event loop.

Calls run in small thread pools with one client per thread (requests' sessions are not meant to be shared). A daemon
that hangs costs its callers a time-out and the pool its threads for as long, nothing else. Listing has threads of its
own, and so has stopping: containers that take their time to end must not pass for a daemon that does not answer.
"""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import docker
import docker.errors
import requests.exceptions

from control.engine import EngineError, EngineGoneError, ImageMissingError, NameTakenError, NotFoundError
from control.model import LABEL, Container

T = TypeVar("T")
THREADS = {"list": 2, "stop": 4, "other": 4}
DEFAULT_HOST = "unix:///var/run/docker.sock"
_NAME_TAKEN = "already in use"


class DockerEngine:
    """One Docker daemon, seen through the label of one fleet. `host` empty: DOCKER_HOST, else the default socket.

    `machine` is what records call the machine it is on.
    """

    def __init__(self, fleet: str, host: str = "", timeout: float = 10.0, machine: str = "local") -> None:
        self._fleet = fleet
        self._machine = machine
        self._host = host
        self._timeout = timeout
        self._pools = {use: ThreadPoolExecutor(n, thread_name_prefix=f"docker-{use}") for use, n in THREADS.items()}
        self._local = threading.local()
        self._clients: list[docker.APIClient] = []

    @property
    def machines(self) -> frozenset[str]:
        return frozenset({self._machine})

    async def containers(self) -> list[Container]:
        return await self._call(self._list, self._timeout, pool="list")

    async def create(self, name: str, body: dict[str, Any], machine: str) -> str:
        if machine != self._machine:
            raise EngineError(f"machine {machine} is not reached from here, only {self._machine}")

        def work() -> str:
            return str(self._client().create_container_from_config(body, name)["Id"])

        return await self._call(work, self._timeout, body.get("Image", ""))

    async def start(self, container_id: str) -> None:
        await self._call(lambda: self._client().start(container_id), self._timeout)

    async def stop(self, container_id: str, grace: float) -> None:
        # The SDK adds `timeout` to the time it waits for the answer.
        def work() -> None:
            self._client().stop(container_id, timeout=round(grace))

        await self._call(work, self._timeout + grace, pool="stop")

    async def remove(self, container_id: str) -> None:
        def work() -> None:
            with contextlib.suppress(docker.errors.NotFound):
                self._client().remove_container(container_id, force=True, v=True)

        await self._call(work, self._timeout)

    async def logs(self, container_id: str, lines: int) -> str:
        def work() -> str:
            return bytes(self._client().logs(container_id, tail=lines)).decode(errors="replace")

        return await self._call(work, self._timeout)

    async def events(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | EngineError] = asyncio.Queue()

        def put(item: str | EngineError) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(queue.put_nowait, item)

        subscription = _Subscription(self._new_client, {"type": "container", "label": self._label}, put)
        thread = threading.Thread(target=subscription.run, name="docker-events", daemon=True)
        thread.start()
        try:
            while True:
                item = await queue.get()
                if isinstance(item, EngineError):
                    raise item
                yield item
        finally:
            subscription.cancel()

    async def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        for client in self._clients:
            client.close()

    @property
    def _label(self) -> str:
        return f"{LABEL}fleet={self._fleet}"

    def _list(self) -> list[Container]:
        client = self._client()
        found = client.containers(all=True, filters={"label": self._label})
        return [_container(client, entry, self._machine) for entry in found]

    def _client(self) -> docker.APIClient:
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = self._new_client()
            self._clients.append(client)
        return client

    def _new_client(self) -> docker.APIClient:
        settings = {"base_url": self._host} if self._host else docker.utils.kwargs_from_env()
        reachable(settings.get("base_url", DEFAULT_HOST))
        return docker.APIClient(version="auto", timeout=self._timeout, **settings)

    async def _call(self, work: Callable[[], T], within: float, image: str = "", pool: str = "other") -> T:
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pools[pool], lambda: _translated(work, image))
            async with asyncio.timeout(within + 1.0):
                return await future
        except TimeoutError:
            raise EngineGoneError(f"Docker did not answer within {within:g} s") from None
        except RuntimeError as error:  # the pool was shut down
            raise EngineGoneError(str(error)) from None


class _Subscription:
    """One stream of events, read in a thread of its own until it breaks or is cancelled."""

    def __init__(
        self, connect: Callable[[], docker.APIClient], filters: dict[str, str], put: Callable[[str | EngineError], None]
    ) -> None:
        self._connect = connect
        self._filters = filters
        self._put = put
        self._lock = threading.Lock()
        self._stream: Any = None
        self._cancelled = False

    def run(self) -> None:
        try:
            _translated(self._read, "")
        except EngineError as error:
            self._put(error)
        else:
            self._put(EngineGoneError("Docker closed the stream of events"))

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._stream is not None:
                with contextlib.suppress(Exception):  # it may have broken by itself meanwhile
                    self._stream.close()

    def _read(self) -> None:
        client = self._connect()
        try:
            stream = client.events(filters=self._filters, decode=True)
            with self._lock:
                if self._cancelled:
                    stream.close()
                    return
                self._stream = stream
            self._put("")
            for event in stream:
                attributes = event.get("Actor", {}).get("Attributes", {})
                self._put(str(attributes.get(LABEL + "node", "")))
        finally:
            client.close()


def _container(client: docker.APIClient, entry: dict[str, Any], machine: str) -> Container:
    labels = entry.get("Labels") or {}
    state, exit_code = str(entry.get("State", "")), None
    if state in ("exited", "dead"):
        with contextlib.suppress(docker.errors.NotFound):
            exit_code = client.inspect_container(entry["Id"])["State"].get("ExitCode")
    return Container(
        id=entry["Id"],
        name=(entry.get("Names") or ["/"])[0].lstrip("/"),
        node=labels.get(LABEL + "node", ""),
        country=labels.get(LABEL + "country", ""),
        slot=labels.get(LABEL + "slot", ""),
        state=state,
        exit_code=exit_code,
        machine=machine,
    )


def reachable(host: str) -> None:
    """Raise OSError where nobody listens: the SDK leaves a socket it cannot connect open, at every attempt."""
    scheme, _, path = host.partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect("/" + path.lstrip("/"))


def _translated(work: Callable[[], T], image: str) -> T:
    """Run `work`; every way in which the SDK fails becomes an EngineError in plain words."""
    try:
        return work()
    except docker.errors.ImageNotFound:
        raise ImageMissingError(f"image {image} is missing: build it first") from None
    except docker.errors.NotFound as error:
        if image and "no such image" in _words(error).lower():
            raise ImageMissingError(f"image {image} is missing: build it first") from None
        raise NotFoundError(_words(error)) from None
    except docker.errors.APIError as error:
        if error.status_code == 409 and _NAME_TAKEN in _words(error):
            raise NameTakenError(_words(error)) from None
        raise EngineError(_words(error)) from None
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        raise EngineGoneError(f"Docker does not answer: {_root(error)}") from None
    except json.JSONDecodeError as error:
        raise EngineError(f"Docker's answer is not understood: {error}") from None


def _words(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)[:300]


def _root(error: BaseException) -> str:
    # The SDK wraps "connection refused" four times; only the innermost says something to an operator.
    while error.__context__ is not None:
        error = error.__context__
    return str(error)[:200] or type(error).__name__
