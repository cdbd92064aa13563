"""A whole gateway, supervisor and real workers: starts anew, loses workers, drains, and keeps its numbers meanwhile.

What needs workers that misbehave has stand-ins for them.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy import ports
from gateway import metrics, supervisor
from gateway.line_writer import LineWriter
from gateway.plan import Plan
from gateway.supervisor import ANSWER_WITHIN_S, Supervisor
from health.process import Backoff
from health.registry import Registry
from tests.conftest import STALL_S
from tests.gateway.harness import Exit, Gateway, curl, serve, wait_for
from tests.gateway.stand_in_worker import install

Exits = Callable[[str], Exit]
Gateways = Callable[..., Gateway]
ECHO = b"CONNECT 127.0.0.1:7 HTTP/1.1\r\nHost: a\r\n\r\n"


def number(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of all series of `name` that have `labels`."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(gateway.metrics())
        for sample in family.samples
        if sample.name == f"vpnexit_gateway_{name}" and labels.items() <= sample.labels.items()
    )


def said(gateway: Gateway, event: str) -> list[dict[str, object]]:
    whole = gateway.log.read_text().rpartition("\n")[0]
    lines = (json.loads(line) for line in whole.splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]


def echo(gateway: Gateway, word: bytes = b"abc") -> bytes:
    """One tunnel to an exit's echo service and back, to its end."""
    with gateway.connect() as sock:
        sock.sendall(ECHO)
        sock.sendall(word)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def tunnel(gateway: Gateway) -> socket.socket:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(gateway.connect())
        sock.sendall(ECHO)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            assert byte, f"closed after {head!r}"
            head += byte
        assert b" 200 " in head
        stack.pop_all()
        return sock


class Load:
    """Connections one after the other, by several clients, until the end of the block; what went wrong is in `bad`."""

    def __init__(self, gateway: Gateway, clients: int = 8) -> None:
        self.bad: Counter[str] = Counter()
        self.good = 0
        self._gateway = gateway
        self._clients = clients
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._client()) for _ in range(self._clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _client(self) -> None:
        while not self._stop:
            try:
                async with asyncio.timeout(20):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._gateway.port)
                    writer.write(ECHO + b"abc")
                    writer.write_eof()
                    answer = await reader.read()
                    writer.close()
            except (OSError, TimeoutError) as error:
                self.bad[repr(error)] += 1
                continue
            if b" 200 " in answer and answer.endswith(b"abcbye"):
                self.good += 1
            else:
                self.bad[repr(answer[:80])] += 1


async def up(registry: Registry, gateway: Gateway, exit_: Exit) -> None:
    await serve(registry, exit_)
    await asyncio.to_thread(wait_for, gateway.usable, what="every worker knows the exit")
    assert (await asyncio.to_thread(echo, gateway)).endswith(b"abcbye")


async def until(condition: Callable[[], object], seconds: float = 60, what: str = "condition") -> None:
    await asyncio.to_thread(wait_for, condition, seconds, what)


async def test_starting_anew_refuses_and_cuts_nobody(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(workers=2, drain_timeout=100), exits("jp000001")
    await up(registry, gateway, jp)
    counted = 0.0
    with tunnel(gateway) as first:
        async with Load(gateway) as load:
            for turn in (1, 2):
                before = load.good
                old = set(gateway.workers())
                gateway.process.send_signal(signal.SIGHUP)
                await until(lambda turn=turn: len(said(gateway, "gateway started anew")) == turn, what="started anew")
                await until(lambda before=before: load.good > before + 50)
                assert len(set(gateway.workers()) - old) == 2
                now = await asyncio.to_thread(number, gateway, "connections_total")
                assert now >= counted
                counted = now
        assert load.bad == {}
        assert load.good > 100
        await until(lambda: number(gateway, "node_connections", node="jp000001") == 1, what="one tunnel is carried")
        first.sendall(b"still here")
        assert first.recv(100) == b"still here"
        await until(lambda: len(gateway.workers()) == 3, what="only the worker with the tunnel is left of the old ones")
        assert gateway.ready()
    await until(lambda: number(gateway, "open_connections") == 0)
    await until(lambda: number(gateway, "node_connections", node="jp000001") == 0)
    await until(lambda: len(gateway.workers()) == 2, what="the last old worker ended")

    def told() -> set[float]:
        """What six workers counted, four of which are gone, and logged."""
        totals = [number(gateway, f"{name}connections_total") for name in ("", "accepted_")]
        return {*totals, len(gateway.lines())}

    await until(lambda: len(told()) == 1, what="as many ended and logged as were accepted")
    assert told().pop() >= load.good + 2
    assert number(gateway, "worker_restarts_total") == 0


async def test_new_settings_count_after_starting_anew(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await up(registry, gateway, jp)
    old = gateway.worker
    first_port = gateway.port
    gateway.port = ports.free()
    gateway.configure(listen=[f"127.0.0.1:{gateway.port}"], log_connections=False, workers=2)
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: said(gateway, "gateway started anew"))
    await until(lambda: old not in gateway.workers())
    assert len(gateway.workers()) == 2
    lines = len(gateway.lines())
    assert echo(gateway).endswith(b"abcbye")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first_port))
    await asyncio.sleep(0.3)
    assert len(gateway.lines()) == lines


async def test_a_new_token_counts_after_starting_anew(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await up(registry, gateway, jp)
    old = gateway.worker
    gateway.metrics_settings = {"token": "s3cret-token"}
    gateway.configure()
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: said(gateway, "gateway started anew"))
    await until(lambda: old not in gateway.workers(), what="the old worker ended")
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.metrics_port}/metrics")
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(request, timeout=20)
    refused.value.close()
    request.add_header("Authorization", "Bearer s3cret-token")

    def one_worker() -> bool:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return b"vpnexit_gateway_workers 1.0" in answer.read()

    await until(one_worker, what="one worker is shown")
    assert gateway.ready()


@pytest.mark.parametrize("wrong", ["configuration", "address", "worker"])
async def test_what_does_not_come_up_leaves_everything_as_it_was(
    exits: Exits, registry: Registry, gateways: Gateways, wrong: str
) -> None:
    gateway, jp = gateways(), exits("jp000001")
    await up(registry, gateway, jp)
    old = gateway.worker
    with socket.create_server(("127.0.0.1", 0)) as taken:
        change: dict[str, object] = {
            "configuration": {"dial_timeout": -1},
            "address": {"listen": [f"127.0.0.1:{taken.getsockname()[1]}"]},
            "worker": {},
        }[wrong]
        gateway.configure(**change)
        if wrong == "worker":  # it cannot even begin
            told = json.loads(gateway._plan.read_text())
            told["redis"] = {"url": "rediss://127.0.0.1", "tls_ca_file": "/nonexistent.pem"}
            gateway._plan.write_text(json.dumps(told))
        gateway.process.send_signal(signal.SIGHUP)
        await until(lambda: said(gateway, "not started anew, what runs goes on"), what="the reason")
    reason = str(said(gateway, "not started anew, what runs goes on")[0]["reason"])
    assert {"configuration": "dial_timeout", "address": "cannot listen on", "worker": "ended at once"}[wrong] in reason
    assert gateway.workers() == [old]
    assert gateway.ready()
    assert echo(gateway).endswith(b"abcbye")


async def test_a_killed_worker_is_replaced_while_the_others_go_on(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(workers=2), exits("jp000001")
    await up(registry, gateway, jp)
    for _ in range(60):
        assert echo(gateway).endswith(b"abcbye")
    await until(lambda: number(gateway, "connections_total", reason="ok") >= 61)
    before = await asyncio.to_thread(number, gateway, "connections_total", reason="ok")
    workers = gateway.workers()
    os.kill(workers[0], signal.SIGKILL)
    began = time.monotonic()
    while time.monotonic() - began < 0.5 or len(gateway.workers()) < 2:  # the other one serves alone
        assert echo(gateway).endswith(b"abcbye")
        before += 1
        assert time.monotonic() - began < 30
    assert gateway.ready()
    await until(lambda: number(gateway, "workers") == 2)
    await until(lambda: number(gateway, "connections_total", reason="ok") >= before, what="the last one is counted")
    assert number(gateway, "connections_total", reason="ok") == before
    assert number(gateway, "worker_restarts_total") == 1
    await until(lambda: said(gateway, "worker ended"), what="the line of the supervisor")
    assert said(gateway, "worker ended")[0]["exit_code"] == -signal.SIGKILL
    assert workers[1] in gateway.workers()


async def test_draining_is_not_ready_refuses_and_lets_tunnels_end(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(workers=2, drain_timeout=60), exits("jp000001")
    await up(registry, gateway, jp)
    with tunnel(gateway) as kept:
        gateway.process.send_signal(signal.SIGTERM)
        await until(lambda: not gateway.ready())

        def refused() -> bool:
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", gateway.port)) != 0

        await until(refused, what="nobody listens")
        await until(lambda: number(gateway, "open_connections") == 1)
        kept.sendall(b"abc")
        assert kept.recv(10) == b"abc"
        assert gateway.process.poll() is None
    assert await asyncio.to_thread(gateway.process.wait, 20) == 0
    assert gateway.lines()[-1]["reason"] in ("ok", "client_reset")  # as the client left, not cut by us


async def test_what_is_left_at_the_deadline_is_cut(exits: Exits, registry: Registry, gateways: Gateways) -> None:
    gateway, jp = gateways(drain_timeout=0.5), exits("jp000001")
    await up(registry, gateway, jp)
    with tunnel(gateway) as kept:
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(kept.recv, 1)
        assert time.monotonic() - began > 0.4
        assert await asyncio.to_thread(gateway.process.wait, 10) == 0
    assert gateway.lines()[-1]["reason"] == "shutdown"


async def test_a_second_signal_ends_at_once_and_nobody_survives_the_supervisor(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    jp = exits("jp000001")
    for signals in ((signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)):
        gateway = gateways(drain_timeout=100)
        await up(registry, gateway, jp)
        worker = gateway.worker
        with tunnel(gateway):
            gateway.process.send_signal(signals[0])
            if len(signals) > 1:
                await until(lambda one=gateway: not one.ready(), what="the first one has arrived")
                gateway.process.send_signal(signals[1])
            await asyncio.to_thread(gateway.process.wait, 20)
            await until(lambda pid=worker: not Path(f"/proc/{pid}/fd").exists() or not os.listdir(f"/proc/{pid}/fd"))


async def test_workers_stop_accepting_before_descriptors_run_out(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(files=300), exits("jp000001")
    await up(registry, gateway, jp)
    most = (300 - 128 - 15 - 64) // 2
    wait_for(lambda: said(gateway, "worker listening"), what="the line of the worker")
    assert said(gateway, "worker listening")[0]["most_connections"] == most
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(tunnel(gateway)) for _ in range(most)]
        waiting = stack.enter_context(gateway.connect())
        waiting.sendall(ECHO)
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        assert gateway.descriptors() < 300
        await until(lambda: number(gateway, "open_connections") == most)
        assert number(gateway, "descriptors_limit") == 300
        await until(lambda: abs(number(gateway, "descriptors_open") - gateway.descriptors()) < 20)
        await until(lambda: number(gateway, "accept_pauses_total", reason="limit") > 0)
        assert number(gateway, "accept_pauses_total", reason="descriptors") == 0
        kept.pop().close()
        waiting.settimeout(20)
        assert b" 200 " in waiting.recv(1000)


async def test_a_lower_limit_can_be_set_and_others_take_over(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    gateway, jp = gateways(workers=2, max_connections=3), exits("jp000001")
    await up(registry, gateway, jp)
    await until(lambda: number(gateway, "open_connections") == 0)
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(tunnel(gateway))
        waiting = stack.enter_context(gateway.connect())
        waiting.sendall(ECHO)
        waiting.settimeout(0.5)
        with pytest.raises(TimeoutError):
            waiting.recv(1)


async def test_a_stuck_reader_of_the_log_costs_lines_and_no_traffic(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    reader, pipe = os.pipe()
    gateway, jp = gateways(stderr=pipe), exits("jp000001")
    os.close(pipe)
    try:
        await serve(registry, jp)
        await until(lambda: echo(gateway).endswith(b"abcbye"))
        # Refusals are quick: each is a line. The pipe holds 64 KiB, the worker 10,000 lines.
        asked = 0
        while number(gateway, "log_lines_dropped_total") == 0:
            with gateway.connect() as sock:
                for _ in range(20):
                    sock.sendall(b"GET http://vpnexit.internal/ HTTP/1.1\r\nHost: vpnexit.internal\r\n\r\n" * 20)
                    asked += 20
                sock.shutdown(socket.SHUT_WR)
                await asyncio.to_thread(lambda s=sock: [None for _ in iter(lambda: s.recv(1 << 20), b"")])
            assert asked < 40_000
        assert echo(gateway).endswith(b"abcbye")
        assert gateway.ready()
        gateway.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(gateway.process.wait, 15) == 0
    finally:
        os.close(reader)


async def test_a_full_disk_under_the_log_costs_lines_and_no_traffic(
    exits: Exits, registry: Registry, gateways: Gateways
) -> None:
    with open("/dev/full", "wb") as full:
        gateway, jp = gateways(stderr=full.fileno()), exits("jp000001")
    await up(registry, gateway, jp)
    before = await asyncio.to_thread(number, gateway, "log_lines_dropped_total")
    for _ in range(20):
        assert echo(gateway).endswith(b"abcbye")
    await until(lambda: number(gateway, "log_lines_dropped_total") >= before + 20)
    assert curl("-x", gateway.url, "http://origin.test/").stdout == "jp000001\n"


class Small:
    """A supervisor in this process, with stand-ins for workers and another for the command that makes a plan."""

    def __init__(self, directory: Path, port: int, lines: LineWriter, **worker: object) -> None:
        self._next = directory / "next.json"
        reload = [
            sys.executable,
            "-c",
            f"import os,sys; os.write(int(sys.argv[1]), open({str(self._next)!r},'rb').read())",
        ]
        self.plan = Plan([], f"127.0.0.1:{port}", 2, 30.0, "info", reload, worker)
        self.stop, self.now, self.anew = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.supervisor = Supervisor(self.plan, {}, lines, Backoff(first=0.01))
        self.running = asyncio.create_task(self.supervisor.run(self.stop, self.now, self.anew))

    def start_anew(self, **change: object) -> None:
        self._next.write_text(json.dumps(asdict(replace(self.plan, **change))))  # type: ignore[arg-type]
        self.anew.set()

    @property
    def pids(self) -> set[int]:
        return {child.pid for child in self.supervisor._children()}

    async def accepted(self) -> float:
        """What the stand-ins say they have counted, in sum."""
        text = (await self.supervisor._show()).decode()
        return next(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "vpnexit_gateway_accepted_connections_total"
        )


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Small]:
    install(tmp_path, monkeypatch)
    lines = LineWriter(2)
    made = Small(tmp_path, ports.free(), lines, count=10)
    try:
        await pause(lambda: sum(child.ready for child in made.supervisor._children()) == 2)
        yield made
    finally:
        made.stop.set()
        made.now.set()
        await made.running
        lines.close()


async def pause(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_counters_of_the_dead_are_kept_and_not_doubled(small: Small) -> None:
    assert await small.accepted() == 20
    victim = min(small.pids)
    os.kill(victim, signal.SIGKILL)
    await pause(lambda: len(small.pids) == 2 and victim not in small.pids)
    await pause(lambda: sum(child.ready for child in small.supervisor._children()) == 2)
    assert await small.accepted() == 30
    assert await small.accepted() == 30


async def test_a_worker_that_does_not_answer_holds_nobody_up(small: Small) -> None:
    hangs = min(small.pids)
    await small.accepted()  # what is imported only then is there
    os.kill(hangs, signal.SIGSTOP)
    began = time.monotonic()
    assert await small.accepted() == 20  # its last word counts
    assert time.monotonic() - began < 2 * ANSWER_WITHIN_S + STALL_S
    os.kill(hangs, signal.SIGKILL)


async def test_new_workers_that_never_know_the_fleet_do_not_take_over(
    small: Small, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "UP_WITHIN_S", 0.7)
    old = small.pids
    small.start_anew(worker={"ready": False})
    await pause(lambda: len(small.pids) == 4)
    await pause(lambda: small.pids == old)
    assert small.supervisor._ready()
    await pause(lambda: caplog.records)
    assert vars(caplog.records[-1])["reason"] == "no new workers within 0.7 s"


async def test_told_to_end_while_starting_anew_it_ends(small: Small) -> None:
    small.start_anew(worker={"ready": False})
    await pause(lambda: len(small.pids) == 4)
    small.stop.set()
    async with asyncio.timeout(30):
        await small.running
    assert not small.pids


async def test_numbers_of_nodes_that_no_worker_knows_are_dropped(small: Small) -> None:
    rows = {("jp", "jp000001", "ok"): [1.0, 0.0, 0.0], ("us", "us000001", "ok"): [1.0, 0.0, 0.0]}
    small.supervisor._past = {metrics.CONNECTIONS: rows}
    text = (await small.supervisor._show()).decode()
    assert "jp000001" in text
    assert "us000001" not in text
    assert ("us", "us000001", "ok") not in small.supervisor._past[metrics.CONNECTIONS]


async def test_words_about_guesses_are_handed_on_and_kept_for_later(small: Small) -> None:
    first, second = small.supervisor._children()
    small.supervisor._hand_on(first, ["c0000201", 1])
    small.supervisor._hand_on(first, {"no": "word"})
    await asyncio.gather(first.ask(), second.ask())
    assert (first._state["heard"], second._state["heard"]) == ([], [["c0000201", 1]])
    os.kill(first.pid, signal.SIGKILL)
    await pause(lambda: first.pid not in small.pids and len(small.pids) == 2)
    (new,) = [child for child in small.supervisor._children() if child is not second]
    await new.until_ready()
    (entry,) = new._state["failures"]
    assert entry[:2] == ["c0000201", 1]
    assert 0 <= entry[2] < 60
