"""The tunnel between two socket pairs, in this process."""

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from gateway.bucket import BURST_S, Bucket
from gateway.pipes import PipePool
from gateway.poller import READ, Poller
from gateway.relay import Shared, Tunnel, Way
from health.reasons import Reason
from tests.conftest import STALL_S
from tests.gateway.harness import ROOT

RESET = b"\x01\0\0\0\0\0\0\0"


class Counted(PipePool):
    """Counts how often a pipe was asked for and given."""

    taken = 0

    def take(self) -> tuple[int, int] | None:
        pipe = super().take()
        self.taken += pipe is not None
        return pipe


class Bench:
    """A tunnel, and the far ends of its two sockets. It owns the tunnel as a session does."""

    def __init__(self, shared: Shared) -> None:
        self.client, near_client = pair()
        self.target, near_target = pair()
        self.passed = (0, 0)
        self.first_bytes = 0
        self.cuts = 0
        self.finished = asyncio.get_running_loop().create_future()
        self.tunnel: Tunnel | None = Tunnel(shared, near_client, near_target, self)

    @property
    def it(self) -> Tunnel:
        assert self.tunnel is not None
        return self.tunnel

    def tunnel_ended(self, reason: Reason, up: int, down: int) -> None:
        self.passed = up, down
        self.finished.set_result(reason)

    def first_byte(self) -> None:
        self.first_bytes += 1

    def cut_off(self) -> None:
        self.cuts += 1

    async def end(self) -> Reason:
        reason = await asyncio.wait_for(asyncio.shield(self.finished), 20)
        assert isinstance(reason, Reason)
        return reason

    def close(self) -> None:
        if self.tunnel is not None:
            self.tunnel.abort()
        self.client.close()
        self.target.close()


def pair() -> tuple[socket.socket, socket.SocketType]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    far.setblocking(False)
    near = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, accepted.detach())
    near.setblocking(False)
    return far, near


Make = Callable[..., Bench]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    poller, made = Poller(asyncio.get_running_loop()), list[Bench]()

    def build(pipes: int = 4) -> Bench:
        made.append(Bench(Shared(poller, pipes)))
        made[-1].it.shared.pipes = Counted(pipes)
        return made[-1]

    yield build
    for bench in made:
        pipes = bench.tunnel.shared.pipes if bench.tunnel else None
        bench.close()
        for pipe in pipes._free if pipes else ():
            os.close(pipe[0])
            os.close(pipe[1])
    poller.close()


@pytest.fixture
async def bench(make: Make) -> Bench:
    return make()


async def send(sock: socket.socket, data: bytes) -> None:
    await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, data), 20)


async def read_all(sock: socket.socket) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while chunk := await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 20):
        data += chunk
    return bytes(data)


async def read_until(sock: socket.socket, end: bytes) -> bytes:
    loop, data = asyncio.get_running_loop(), bytearray()
    while not data.endswith(end):
        data += await asyncio.wait_for(loop.sock_recv(sock, 1 << 20), 20)
    return bytes(data)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


async def turns(count: int = 5) -> None:
    """Let the loop look at its descriptors a few times."""
    for _ in range(count):
        await asyncio.sleep(0.002)


async def test_early_bytes_go_first(bench: Bench) -> None:
    await send(bench.client, b"second")
    bench.it.start(b"first ")
    await send(bench.client, b" third")
    bench.client.shutdown(socket.SHUT_WR)
    assert await read_all(bench.target) == b"first second third"


async def test_what_earlier_handlers_saw_is_read_for(bench: Bench) -> None:
    """The poller repeats no event: the tunnel is told of those that nobody read for."""
    poller, near = bench.it.shared.poller, (bench.it.up.source, bench.it.down.source)
    seen: list[int] = []
    for sock in near:
        poller.watch(sock.fileno(), seen.append)
    await send(bench.client, b"question")
    await send(bench.target, b"banner")
    await until(lambda: sum(bool(events & READ) for events in seen) == 2)
    bench.it.start(client_events=READ, target_events=READ)
    assert await read_until(bench.target, b"question") == b"question"
    assert await read_until(bench.client, b"banner") == b"banner"
    assert bench.first_bytes == 1


async def test_without_events_nothing_is_tried_and_new_ones_count(bench: Bench) -> None:
    poller = bench.it.shared.poller
    for way in (bench.it.up, bench.it.down):
        poller.watch(way.source.fileno(), lambda _: None)
    await turns()
    bench.it.start(client_events=0, target_events=0)
    await send(bench.client, b"later")
    assert await read_until(bench.target, b"later") == b"later"


async def test_each_side_ends_by_itself(bench: Bench) -> None:
    bench.it.start()
    bench.client.shutdown(socket.SHUT_WR)
    assert await read_all(bench.target) == b""
    assert not bench.finished.done()
    await send(bench.target, b"the answer arrives whole")
    bench.target.close()
    assert await read_all(bench.client) == b"the answer arrives whole"
    assert await bench.end() is Reason.OK
    assert bench.passed == (0, 24)


async def test_an_end_that_comes_with_the_last_bytes_is_passed_on(bench: Bench) -> None:
    bench.it.start()
    await turns()
    bench.client.send(b"all there is")
    bench.client.shutdown(socket.SHUT_WR)
    assert await read_all(bench.target) == b"all there is"


@pytest.mark.parametrize("pipes", [0, 4])
@pytest.mark.parametrize("way", ["up", "down"])
async def test_bulk_is_carried_whole_with_and_without_splice(make: Make, pipes: int, way: str) -> None:
    bench = make(pipes)
    pool = bench.it.shared.pipes
    assert isinstance(pool, Counted)
    bench.it.start()
    sent = os.urandom(1 << 20) * 24
    source, sink = (bench.client, bench.target) if way == "up" else (bench.target, bench.client)

    async def send_all() -> None:
        await send(source, sent)
        source.close()

    sending = asyncio.create_task(send_all())
    await asyncio.sleep(0.1)  # the tunnel runs into a reader that does not read yet
    assert await read_all(sink) == sent
    await sending
    sink.close()
    assert await bench.end() is Reason.OK
    assert bench.passed == ((len(sent), 0) if way == "up" else (0, len(sent)))
    assert bench.first_bytes == (way == "down")
    assert (pool.taken > 0) == (pipes > 0)
    assert sum(pool.take() is not None for _ in range(pipes + 1)) == pipes, "all came back"


async def test_both_ways_at_once(make: Make) -> None:
    """An echo: whoever writes everything before reading must not be waited for by the other way."""
    bench = make()
    bench.it.start()
    sent = os.urandom(1 << 20) * 8

    async def echo() -> None:
        while data := await asyncio.get_running_loop().sock_recv(bench.target, 1 << 18):
            await send(bench.target, data)
        bench.target.shutdown(socket.SHUT_WR)

    async def upload() -> None:
        await send(bench.client, sent)
        bench.client.shutdown(socket.SHUT_WR)

    async with asyncio.TaskGroup() as group:
        group.create_task(echo())
        group.create_task(upload())
        back = await read_all(bench.client)
    assert back == sent
    assert await bench.end() is Reason.OK


@pytest.mark.parametrize("before", [3, 300_000])
async def test_urgent_data_stalls_nothing(bench: Bench, before: int) -> None:
    """Those around the urgent byte are passed on without waiting for more."""
    bench.it.start()
    await turns()
    first = b"a" * before
    reading = asyncio.create_task(read_until(bench.target, b"z"))
    for _ in range(3):
        await send(bench.client, first)
        bench.client.send(b"!", socket.MSG_OOB)
    await send(bench.client, b"z")
    assert (await reading).replace(b"!", b"") == first * 3 + b"z"


async def test_urgent_data_within_bulk_stalls_nothing(bench: Bench) -> None:
    """splice(2) stops at the mark: the reads that go past it must be taken up without another event."""
    pool = bench.it.shared.pipes
    assert isinstance(pool, Counted)
    bench.it.start()
    data, marks = b"a" * (2 << 20), 8
    reading = asyncio.create_task(read_until(bench.target, b"z"))
    for _ in range(marks):
        await send(bench.client, data)
        bench.client.send(b"!", socket.MSG_OOB)
    await send(bench.client, b"z")
    # A mark that a later one overtakes makes its byte a plain one (tcp(7)).
    assert (await reading).replace(b"!", b"") == data * marks + b"z"
    assert pool.taken


class Wakes:
    """How often a way was asked to move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        pump = Way.pump

        def counted(way: Way) -> None:
            self.count += 1
            pump(way)

        monkeypatch.setattr(Way, "pump", counted)


@pytest.mark.parametrize("way", ["up", "down"])
async def test_a_rate_holds_without_busy_waiting(bench: Bench, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rate, size = 1_000_000, 750_000
    wakes = Wakes(monkeypatch)
    bucket = Bucket(rate, time.monotonic())
    getattr(bench.it, way).bucket = bucket
    source, sink = (bench.client, bench.target) if way == "up" else (bench.target, bench.client)
    bench.it.start()
    began = time.monotonic()

    async def send_all() -> None:
        await send(source, b"x" * size)
        source.shutdown(socket.SHUT_WR)

    sending = asyncio.create_task(send_all())
    assert len(await read_all(sink)) == size
    await sending
    took = time.monotonic() - began
    least = size / rate - BURST_S
    assert least * 0.95 < took < least * 2 + STALL_S
    assert wakes.count < took / 0.02 * 2 + 50, "it wakes up for 20 ms worth of bytes, not all the time"
    assert bucket.passed == size


async def test_one_rate_for_all_tunnels_of_a_user(make: Make) -> None:
    rate, size = 1_000_000, 400_000
    bucket = Bucket(rate, time.monotonic())
    benches = [make() for _ in range(2)]
    began = time.monotonic()
    for bench in benches:
        bench.it.down.bucket = bucket
        bench.it.start()
        bench.target.send(b"x" * size)

    async def drained(bench: Bench) -> None:
        sent = size
        while sent:
            sent -= len(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(bench.client, 1 << 20), 20))

    await asyncio.gather(*(drained(bench) for bench in benches))
    took = time.monotonic() - began
    assert 2 * size / rate - BURST_S < took + 0.05
    assert took < 2 * 2 * size / rate + STALL_S


async def test_the_other_way_is_not_slowed(bench: Bench) -> None:
    bench.it.up.bucket = Bucket(1000, time.monotonic())
    bench.it.start()
    began = time.monotonic()
    await send(bench.target, b"x" * 200_000 + b"z")
    assert len(await read_until(bench.client, b"z")) == 200_001
    assert time.monotonic() - began < 1 + STALL_S  # at that rate it would be 200 s


async def test_a_tunnel_that_waits_for_its_rate_can_be_cut(bench: Bench) -> None:
    bench.it.down.bucket = Bucket(10_000, time.monotonic())
    bench.it.start()
    bench.target.send(b"x" * 100_000)
    await until(lambda: bench.it.down.waiting)
    bench.it.abort(Reason.QUOTA_USED)
    assert await bench.end() is Reason.QUOTA_USED
    await asyncio.sleep(0.1)  # its timer comes, and finds nothing to do


async def test_a_stopped_reader_stops_the_writer(bench: Bench) -> None:
    bench.it.start()
    total = 0
    for _ in range(2000):
        try:
            total += bench.client.send(bytes(65536))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    assert total < 30 << 20
    assert not bench.finished.done()


@pytest.mark.parametrize(("who", "reason"), [("client", Reason.CLIENT_RESET), ("target", Reason.TARGET_RESET)])
async def test_a_reset_passes_on(bench: Bench, who: str, reason: Reason) -> None:
    bench.it.start()
    broken, other = (bench.client, bench.target) if who == "client" else (bench.target, bench.client)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    broken.close()
    with pytest.raises(ConnectionResetError):
        await read_all(other)
    assert await bench.end() is reason


@pytest.mark.parametrize(
    ("first", "how", "cuts"),
    [("", "end", 1), ("", "reset", 1), ("a byte", "end", 0), ("a byte", "reset", 0), ("the client's end", "end", 0)],
)
async def test_a_target_that_ends_it_unasked_and_without_a_byte(bench: Bench, first: str, how: str, cuts: int) -> None:
    bench.it.start()
    if first == "a byte":
        await send(bench.target, b"x")
        assert await read_until(bench.client, b"x")
    elif first:
        bench.client.shutdown(socket.SHUT_WR)
        assert await read_all(bench.target) == b""
    if how == "reset":
        bench.target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    bench.target.close()
    with contextlib.suppress(ConnectionResetError):
        await read_all(bench.client)
    bench.client.close()
    await bench.end()
    assert bench.cuts == cuts


async def test_a_reset_right_behind_data_is_no_orderly_end(bench: Bench) -> None:
    bench.it.start()
    await asyncio.sleep(0.01)
    bench.target.send(b"half an answer")  # one event for both: the loop has no turn in between
    bench.target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    bench.target.close()
    assert await bench.end() is Reason.TARGET_RESET
    with pytest.raises(ConnectionResetError):
        await read_all(bench.client)


async def test_a_reset_after_the_end_is_noticed(bench: Bench) -> None:
    bench.it.start()
    bench.client.shutdown(socket.SHUT_WR)
    assert await read_all(bench.target) == b""
    bench.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    bench.client.close()
    assert await bench.end() is Reason.CLIENT_RESET


async def test_abort_resets_both_sides_once(bench: Bench) -> None:
    bench.it.start()
    bench.it.abort(Reason.NODE_LOST)
    bench.it.abort(Reason.SHUTDOWN)
    assert await bench.end() is Reason.NODE_LOST
    for side in (bench.client, bench.target):
        with pytest.raises(ConnectionResetError):
            await read_all(side)


async def test_nothing_is_left_for_the_garbage_collector(make: Make) -> None:
    """A cycle would keep a hundred thousand ended tunnels in memory until the collector comes by."""

    class Watched(Tunnel):  # Tunnel has no room for a weak reference
        __slots__ = ("__weakref__",)

    bench = make()
    near = [bench.it.up.source, bench.it.down.source]
    bench.tunnel = Watched(bench.it.shared, near[0], near[1], bench)
    bench.it.start(b"early")
    assert await read_until(bench.target, b"early") == b"early"
    await send(bench.target, b"answer")
    bench.target.close()
    assert await read_all(bench.client) == b"answer"
    gone = weakref.ref(bench.it)
    gc.disable()
    try:
        bench.client.close()
        await bench.end()
        bench.tunnel = None
        del near
        await until(lambda: gone() is None)
    finally:
        gc.enable()


POOR = """
import asyncio, encodings.idna, os, sys
from tests.gateway.test_relay import Bench, read_all, send
from gateway.poller import Poller
from gateway.pipes import PipePool
from gateway.relay import Shared

os.setgroups([])
os.setgid(54321)
os.setuid(54321)

async def main():
    hoard = PipePool(limit=int(sys.argv[1]))
    taken = 0
    while hoard.take():
        taken += 1
    print(taken)
    poller = Poller(asyncio.get_running_loop())
    bench = Bench(Shared(poller))
    bench.it.start()
    sent = os.urandom(1 << 20) * 8
    async def upload():
        await send(bench.client, sent)
        bench.client.close()
    sending = asyncio.create_task(upload())
    received = await read_all(bench.target)
    await sending
    assert received == sent
    bench.target.close()
    await bench.end()
    poller.close()
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_a_user_without_room_for_pipes_still_gets_every_byte() -> None:
    """Beyond pipe-user-pages-soft of pipe(7) new pipes are small; beyond the hard limit there are none."""
    done = subprocess.run(
        [sys.executable, "-c", POOR, "120"],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120, "pipes beyond what the user may have were made"
