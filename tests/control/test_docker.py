"""Docker's SDK behind the engine's interface, against a stand-in for the daemon on a Unix socket."""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from control.engine import (
    EngineError,
    EngineGoneError,
    ImageMissingError,
    NameTakenError,
    NotFoundError,
)
from control.engine.docker import DockerEngine
from control.model import Container

LABELS = {
    "io.vpnexit.fleet": "test",
    "io.vpnexit.node": "jp000001",
    "io.vpnexit.country": "jp",
    "io.vpnexit.slot": "jp-0",
}


class Daemon:
    """Docker Engine's paths, as far as the SDK calls them. `refuse` maps a path's end to status and message."""

    def __init__(self) -> None:
        self.refuse: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.bodies: list[Any] = []
        self.events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.hang = asyncio.Event()
        self.hang.set()
        self.ended = asyncio.Event()
        self.ended.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path.split("/", 2)[2] if request.path.startswith("/v1.") else request.path.lstrip("/")
        self.asked.append((request.method, path, dict(request.query)))
        await self.hang.wait()
        for end, (status, message) in self.refuse.items():
            if path.endswith(end):
                return web.json_response({"message": message}, status=status)
        match request.method, path:
            case "GET", "version":
                return web.json_response({"ApiVersion": "1.41", "MinAPIVersion": "1.12"})
            case "GET", "containers/json":
                return web.json_response(
                    [
                        {"Id": "a", "Names": ["/vpnexit-jp000001"], "Labels": LABELS, "State": "running"},
                        {"Id": "b", "Names": ["/vpnexit-jp000002"], "Labels": LABELS, "State": "exited"},
                    ]
                )
            case "GET", "containers/a/json" | "containers/b/json":
                config = {"Config": {"Tty": False}, "HostConfig": {"LogConfig": {"Type": "json-file"}}}
                return web.json_response({"Id": "b", "State": {"ExitCode": 69}, **config})
            case "POST", "containers/create":
                self.bodies.append(await request.json())
                return web.json_response({"Id": "new", "Warnings": []}, status=201)
            case "GET", "containers/a/logs":
                frame = b"one\ntwo\n"
                return web.Response(body=b"\x02\0\0\0" + len(frame).to_bytes(4, "big") + frame)
            case "GET", "events":
                return await self._stream(request)
            case "POST", "containers/slow/stop":
                await self.ended.wait()
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while (event := await self.events.get()) is not None:
            await response.write(json.dumps(event).encode() + b"\n")
        return response


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    found = Daemon()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "docker.sock")).start()
    yield found
    found.hang.set()
    found.ended.set()
    found.events.put_nowait(None)
    await runner.cleanup()


@pytest.fixture
async def engine(daemon: Daemon, tmp_path: Path) -> AsyncIterator[DockerEngine]:
    found = DockerEngine("test", f"unix://{tmp_path}/docker.sock", timeout=10.0)
    yield found
    await found.close()


async def test_lists_the_fleet_with_exit_codes(engine: DockerEngine, daemon: Daemon) -> None:
    assert await engine.containers() == [
        Container("a", "vpnexit-jp000001", "jp000001", "jp", "jp-0", "running", machine="local"),
        Container("b", "vpnexit-jp000002", "jp000001", "jp", "jp-0", "exited", 69, "local"),
    ]
    _, _, query = next(asked for asked in daemon.asked if asked[1] == "containers/json")
    assert json.loads(query["filters"]) == {"label": ["io.vpnexit.fleet=test"]}
    assert query["all"] == "1"


async def test_the_body_goes_out_as_it_is(engine: DockerEngine, daemon: Daemon) -> None:
    body = {"Image": "vpnexit-exit", "HostConfig": {"CapDrop": ["ALL"]}}
    assert await engine.create("vpnexit-jp000001", body, "local") == "new"
    assert daemon.bodies == [body]
    assert daemon.asked[-1][2] == {"name": "vpnexit-jp000001"}


async def test_start_stop_remove_logs(engine: DockerEngine, daemon: Daemon) -> None:
    await engine.start("a")
    await engine.stop("a", 5)
    await engine.remove("a")
    assert await engine.logs("a", 2) == "one\ntwo\n"
    asked = {(method, path): query for method, path, query in daemon.asked}
    assert asked["POST", "containers/a/stop"] == {"t": "5"}
    assert asked["DELETE", "containers/a"]["force"] == "True"
    assert asked["GET", "containers/a/logs"]["tail"] == "2"


@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (409, 'Conflict. The container name "/x" is already in use by container "y".', NameTakenError),
        (404, "No such image: vpnexit-exit:latest", ImageMissingError),
        (404, "network vpnexit-uplink not found", NotFoundError),
        (400, "invalid mount config", EngineError),
        (500, "no space left on device", EngineError),
    ],
)
async def test_refusals_become_plain_words(
    engine: DockerEngine, daemon: Daemon, status: int, message: str, kind: type[EngineError]
) -> None:
    daemon.refuse["containers/create"] = (status, message)
    with pytest.raises(kind) as caught:
        await engine.create("x", {"Image": "vpnexit-exit"}, "local")
    assert type(caught.value) is kind
    words = "image vpnexit-exit is missing" if kind is ImageMissingError else message
    assert words in str(caught.value)


async def test_removing_what_is_gone_is_no_error(engine: DockerEngine, daemon: Daemon) -> None:
    daemon.refuse["containers/gone"] = (404, "No such container: gone")
    await engine.remove("gone")
    daemon.refuse["containers/gone/stop"] = (404, "No such container: gone")
    with pytest.raises(NotFoundError):
        await engine.stop("gone", 1)


async def test_no_daemon_is_told_in_one_line(tmp_path: Path) -> None:
    engine = DockerEngine("test", f"unix://{tmp_path}/none.sock")
    try:
        with pytest.raises(EngineGoneError, match=r"^Docker does not answer: .*No such file or directory"):
            await engine.containers()
        with pytest.raises(EngineGoneError):
            await anext(engine.events())
    finally:
        await engine.close()


async def test_a_daemon_that_hangs_costs_a_time_out_and_not_the_loop(daemon: Daemon, tmp_path: Path) -> None:
    engine = DockerEngine("test", f"unix://{tmp_path}/docker.sock", timeout=1.0)
    await engine.containers()
    daemon.hang.clear()
    began, turns = time.monotonic(), 0
    call = asyncio.create_task(engine.containers())
    while not call.done():
        await asyncio.sleep(0.01)
        turns += 1
    with pytest.raises(EngineGoneError):
        await call
    assert time.monotonic() - began < 5
    assert turns > 20
    daemon.hang.set()
    assert len(await engine.containers()) == 2
    await engine.close()


async def test_containers_that_end_slowly_hold_up_nobody_else(engine: DockerEngine, daemon: Daemon) -> None:
    """Eight at once, more than there are threads: who lists, creates or listens does not wait for them."""
    daemon.ended.clear()
    stops = [asyncio.create_task(engine.stop("slow", 5)) for _ in range(8)]
    try:
        await _until(lambda: sum(path == "containers/slow/stop" for _, path, _ in daemon.asked) == 4)
        began = time.monotonic()
        assert len(await engine.containers()) == 2
        assert await engine.create("x", {"Image": "vpnexit-exit"}, "local") == "new"
        assert await anext(engine.events()) == ""
        assert time.monotonic() - began < 5  # they last until this test lets them end
    finally:
        daemon.ended.set()
        await asyncio.gather(*stops)


async def test_events_say_that_they_listen_then_which_node_changed(engine: DockerEngine, daemon: Daemon) -> None:
    events = engine.events()
    try:
        assert await anext(events) == ""
        daemon.events.put_nowait({"Type": "container", "Action": "die", "Actor": {"Attributes": LABELS}})
        assert await asyncio.wait_for(anext(events), 10) == "jp000001"
        _, _, query = next(asked for asked in daemon.asked if asked[1] == "events")
        assert json.loads(query["filters"])["label"] == ["io.vpnexit.fleet=test"]
        daemon.events.put_nowait(None)
        with pytest.raises(EngineGoneError):
            await asyncio.wait_for(anext(events), 10)
    finally:
        await events.aclose()  # type: ignore[attr-defined]


async def test_nobody_listening_ends_the_stream(engine: DockerEngine, daemon: Daemon) -> None:
    events = engine.events()
    assert await anext(events) == ""
    with contextlib.suppress(StopAsyncIteration):
        await events.aclose()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 15
    while any(thread.name == "docker-events" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_closed_engine_says_so(engine: DockerEngine) -> None:
    await engine.close()
    with pytest.raises(EngineGoneError):
        await engine.containers()


async def test_a_container_for_another_machine_is_refused(tmp_path: Path) -> None:
    engine = DockerEngine("test", f"unix://{tmp_path}/none.sock", machine="m1")
    assert engine.machines == {"m1"}
    with pytest.raises(EngineError, match="machine m2 is not reached"):
        await engine.create("vpnexit-jp000001", {}, "m2")
    await engine.close()


async def _until(condition: Callable[[], bool], within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
