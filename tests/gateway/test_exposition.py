"""What Prometheus reads, by its own parser, and the HTTP listener that it asks."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import exposition as exposed
from gateway.exposition import Monitor, exposition
from gateway.metrics import BUCKETS, Metrics
from health.reasons import Reason

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name.removeprefix("vpnexit_gateway_"), frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def of(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_everything_counted_is_shown_under_its_name() -> None:
    counted = Metrics()
    counted.opened()
    counted.dialled("jp", "jp000001", 0.003)
    counted.dialled("jp", "jp000002", 20.0)
    counted.first_byte("jp", 0.2)
    counted.dial_failed("jp", "jp000001", Reason.NODE_DIAL)
    counted.ended("jp", "jp000001", Reason.OK, 100, 2000)
    counted.ended("jp", "jp000001", Reason.CLIENT_RESET, 1, 2)
    counted.refused(Reason.AUTH_FAILED)
    counted.paused("limit")
    counted.datagram_dropped("up", Reason.TARGET_FORBIDDEN)
    counted.log_lines_dropped = 7
    found = samples(exposition(counted.counters(), {"open_connections": 1, "snapshot_age_seconds": 0.5}, restarts=2))
    node = {"country": "jp", "node": "jp000001"}
    assert of(found, "connections_total", **node, reason="ok") == 1
    assert of(found, "connections_total", **node, reason="client_reset") == 1
    assert of(found, "bytes_total", **node, direction="up") == 101
    assert of(found, "bytes_total", **node, direction="down") == 2002
    assert of(found, "dials_total", **node) == 1
    assert of(found, "dial_failures_total", **node, reason="node_dial") == 1
    assert of(found, "refusals_total", reason="auth_failed") == 1
    assert of(found, "accept_pauses_total", reason="limit") == 1
    assert of(found, "datagrams_dropped_total", direction="up", reason="target_forbidden") == 1
    assert of(found, "accepted_connections_total") == 1
    assert of(found, "log_lines_dropped_total") == 7
    assert of(found, "worker_restarts_total") == 2
    assert of(found, "open_connections") == 1
    assert of(found, "snapshot_age_seconds") == 0.5
    assert of(found, "dial_seconds_bucket", country="jp", le=str(BUCKETS[0])) == 0
    assert of(found, "dial_seconds_bucket", country="jp", le=str(BUCKETS[1])) == 1
    assert of(found, "dial_seconds_bucket", country="jp", le="10.0") == 1
    assert of(found, "dial_seconds_bucket", country="jp", le="+Inf") == 2
    assert of(found, "dial_seconds_count", country="jp") == 2
    assert of(found, "dial_seconds_sum", country="jp") == 20.003
    assert of(found, "first_byte_seconds_count", country="jp") == 1


def test_before_anything_happened_the_totals_are_there() -> None:
    found = samples(exposition({}, {}, restarts=0))
    assert of(found, "accepted_connections_total") == 0
    assert of(found, "log_lines_dropped_total") == 0


class Asked:
    """A monitor, and whether it is ready."""

    def __init__(self) -> None:
        self.ready = True
        self.monitor = Monitor(lambda: self.ready, self.show)

    async def show(self) -> bytes:
        return b"number 1\n"

    async def send(self, request: bytes, *, end: bool = False) -> bytes:
        host, _, port = self.monitor.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        if end:
            writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def asked(unused_tcp_port: int) -> AsyncIterator[Asked]:
    made = Asked()
    await made.monitor.listen(f"127.0.0.1:{unused_tcp_port}")
    yield made
    made.monitor.close()


async def test_ready_and_not(asked: Asked) -> None:
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    asked.ready = False
    assert (await asked.send(b"GET /ready HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


async def test_metrics_have_a_length_and_a_type(asked: Asked) -> None:
    answer = await asked.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"number 1\n"
    assert b"content-length: 9" in head.lower()
    assert b"content-type: text/plain; version=" in head.lower()
    head_only = await asked.send(b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    assert head_only.partition(b"\r\n\r\n")[2] == b""


async def test_a_request_in_pieces_is_one(asked: Asked) -> None:
    host, _, port = asked.monitor.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for byte in b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


@pytest.mark.parametrize(
    ("request_head", "status"),
    [(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"404"), (b"POST /ready HTTP/1.1\r\nHost: a\r\n\r\n", b"405")],
)
async def test_anything_else_is_refused(asked: Asked, request_head: bytes, status: bytes) -> None:
    assert (await asked.send(request_head)).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01" * 100 + b"\r\n\r\n", b"GET /ready HTTP/1.1\r\n" + b"a" * 70_000, b"GET"]
)
async def test_garbage_is_closed(asked: Asked, garbage: bytes) -> None:
    assert await asked.send(garbage, end=True) == b""
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_silent_client_is_closed(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposed, "_REQUEST_WITHIN_S", 0.1)
    assert await asked.send(b"GET /re") == b""


async def test_it_can_move(asked: Asked, unused_tcp_port_factory: object) -> None:
    first = asked.monitor.address
    await asked.monitor.listen(first)  # the same: nothing happens
    await asked.monitor.listen(f"127.0.0.1:{unused_tcp_port_factory()}")  # type: ignore[operator]
    assert (await asked.send(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    host, _, port = first.rpartition(":")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))
