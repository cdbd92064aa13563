"""Plain HTTP requests of one client connection: to which target, over which connection, and when twice."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from deploy import ports
from gateway import plain_http
from gateway.plain_http import FRESH_S
from gateway.wire.http_rules import MAX_GATEWAYS
from tests.gateway.harness import Gateway, wait_for
from tests.gateway.inside import Inside
from tests.gateway.raw_origin import EXIT, End, Origin, client_of, direct_gateway, fields_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SEEN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 vpnexit\r\n" + EXIT + b"\r\nok"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, _redis_binary: str) -> Iterator[Gateway]:
    with direct_gateway(tmp_path_factory.mktemp("plain"), _redis_binary) as running:
        yield running


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with Origin() as listening:
        yield listening


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[End]:
    async with client_of(gateway) as end:
        yield end


@pytest.fixture
async def patient(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[End]:
    """A client of a gateway whose kept connections stay young however long the machine stands still."""
    monkeypatch.setattr(plain_http, "FRESH_S", 60.0)
    async with Inside() as inside:
        end = End(*await asyncio.open_connection(sock=inside.connect().sock, limit=1 << 20))
        yield end
        await end.drop()


async def asked(client: End, origin: Origin, *fields: bytes, method: bytes = b"GET") -> End:
    """One whole exchange; returns the origin's end of the connection."""
    await client.send(origin.request(*fields, method=method))
    end = await origin.accepted()
    await end.head()
    await end.send(OK)
    assert await client.exactly(len(SEEN)) == SEEN
    return end


async def test_the_origin_is_asked_in_origin_form(client: End, origin: Origin) -> None:
    await client.send(origin.request(b"X-A: 1", path=b"/a?b=c"))
    end = await origin.accepted()
    assert await end.head() == (
        b"GET /a?b=c HTTP/1.1\r\nHost: " + origin.host + b"\r\nX-A: 1\r\nVia: 1.1 vpnexit\r\n\r\n"
    )
    await end.send(OK)
    assert await client.exactly(len(SEEN)) == SEEN


async def test_the_clients_own_request_id_goes_on_and_ours_does_not(
    gateway: Gateway, client: End, origin: Origin
) -> None:
    """Its answers name the connection as the gateway's log does, whatever the client and the origin call it."""
    names = (b"X-Request-Id: the-clients", b"X-Request-ID: 7f000001", b"")
    end: End | None = None
    for name in names:
        fields = [name] if name else []
        await client.send(origin.request(*fields))
        end = end or await origin.accepted()
        lines = (b"GET / HTTP/1.1", b"Host: " + origin.host, *fields, b"Via: 1.1 vpnexit", b"", b"")
        assert await end.head() == b"\r\n".join(lines)
        await end.send(OK.replace(b"\r\n\r\n", b"\r\nX-Request-Id: the-origins\r\n\r\n"))
        assert await client.exactly(len(SEEN)) == SEEN
    ids = re.findall(rb"X-Request-Id: (.*)\r\n", client.received)
    assert len(ids) == 3
    assert len(set(ids)) == 1
    assert end is not None
    assert ids[0] not in end.received
    wait_for(lambda: [line["conn_id"] for line in gateway.lines()].count(ids[0].decode()) == 3)


async def test_answers_of_our_own_have_the_id(gateway: Gateway, client: End, origin: Origin) -> None:
    await client.send(b"GET http://vpnexit.internal/ HTTP/1.1\r\nHost: vpnexit.internal\r\n\r\n")
    await client.head()
    await client.some()
    await client.send(origin.request(b"Max-Forwards: 0", method=b"OPTIONS"))
    await client.head()
    await client.send(b"GET ftp://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n")
    await client.rest()
    ids = re.findall(rb"\r\nX-Request-Id: ([0-9a-f]{16})\r\n", client.received)
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_one_connection_serves_many_requests(patient: End, origin: Origin) -> None:
    client = patient
    end = await asked(client, origin)
    for method in (b"GET", b"POST", b"DELETE"):
        await client.send(origin.request(method=method))
        assert (await end.head()).startswith(method)
        await end.send(OK)
        assert await client.exactly(len(SEEN)) == SEEN
    assert origin.count == 1


async def test_pipelined_requests_are_answered_in_order(client: End, origin: Origin) -> None:
    post = origin.request(b"Content-Length: 3", method=b"POST", path=b"/2") + b"abc"
    chunked = origin.request(b"Transfer-Encoding: chunked", method=b"PUT", path=b"/3") + b"3\r\ndef\r\n0\r\n\r\n"
    await client.send(origin.request(path=b"/1") + post + chunked + origin.request(path=b"/4"))
    end = await origin.accepted()
    for number, body in ((1, b""), (2, b"abc"), (3, b"3\r\ndef\r\n0\r\n\r\n"), (4, b"")):
        assert b" /%d HTTP" % number in await end.head()
        assert await end.exactly(len(body)) == body
        assert await end.silent(0.05)  # one at a time
        await end.send(OK.replace(b"ok", b"%02d" % number))
        assert (await client.exactly(len(SEEN))).endswith(b"%02d" % number)
    assert origin.count == 1


async def test_pipelined_requests_to_changing_targets(client: End, origin: Origin) -> None:
    async with Origin() as other:
        await client.send(origin.request() + other.request() + origin.request())
        for target in (origin, other, origin):
            end = await target.accepted()
            assert b"Host: " + target.host in await end.head()
            await end.send(OK)
            assert await client.exactly(len(SEEN)) == SEEN
        assert (origin.count, other.count) == (2, 1)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
@pytest.mark.parametrize("reset", [False, True])
async def test_what_may_be_repeated_goes_once_more_on_a_new_connection(
    client: End, origin: Origin, method: bytes, reset: bool
) -> None:
    old = await asked(client, origin)
    await client.send(origin.request(b"Content-Length: 3", method=method) + b"abc")
    await old.head()
    if reset:
        old.reset()
    else:
        await old.close()
    new = await origin.accepted()
    assert (await new.head()).startswith(method)
    assert await new.exactly(3) == b"abc"
    await new.send(OK)
    assert await client.exactly(len(SEEN)) == SEEN
    assert origin.count == 2


async def test_it_goes_twice_at_most(client: End, origin: Origin) -> None:
    old = await asked(client, origin)
    await client.send(origin.request())
    await old.head()
    await old.close()
    await (await origin.accepted()).close()
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    assert origin.count == 2


async def test_what_must_not_be_repeated_goes_once(patient: End, origin: Origin) -> None:
    client = patient
    old = await asked(client, origin)
    await client.send(origin.request(b"Content-Length: 3", method=b"POST") + b"abc")
    await old.head()
    await old.close()
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    assert origin.count == 1


async def test_nothing_is_repeated_after_a_word_of_the_origin(client: End, origin: Origin) -> None:
    old = await asked(client, origin)
    await client.send(origin.request())
    await old.head()
    await old.send(b"HTTP/1.1 2")
    await old.close()
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    assert origin.count == 1


async def test_nothing_is_repeated_on_a_first_connection(client: End, origin: Origin) -> None:
    await client.send(origin.request())
    await (await origin.accepted()).close()
    assert (await client.head()).startswith(b"HTTP/1.1 502")
    assert origin.count == 1


async def test_a_kept_connection_that_has_ended_is_noticed_before(client: End, origin: Origin) -> None:
    await (await asked(client, origin)).close()
    await asked(client, origin, method=b"POST")
    assert origin.count == 2


async def test_what_must_not_be_repeated_goes_on_a_young_connection_only(client: End, origin: Origin) -> None:
    await asked(client, origin)
    await asyncio.sleep(FRESH_S * 1.1)
    await asked(client, origin, method=b"POST")  # accepted anew
    assert origin.count == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\n",  # more than one answer
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_not(client: End, origin: Origin, answer: bytes) -> None:
    for _ in range(2):
        await client.send(origin.request())
        end = await origin.accepted()
        await end.head()
        await end.send(answer)
        assert (await client.head()).startswith(b"HTTP/1.1 200 OK\r\n")
        assert await client.exactly(2) == b"ok"
        assert await end.rest() == b""


async def test_the_internal_page_between_requests(client: End, origin: Origin) -> None:
    internal = b"http://vpnexit.internal/ HTTP/1.1\r\nHost: a\r\n\r\n"
    await client.send(b"GET " + internal + b"HEAD " + internal + origin.request())
    head = await client.head()
    length = int(next(line for line in fields_of(head) if line.startswith(b"content-length")).split()[1])
    assert json.loads(await client.exactly(length))["node"] == "zz000001"
    assert await client.head() == head
    await (await origin.accepted()).send(OK)
    assert await client.exactly(len(SEEN)) == SEEN


@pytest.mark.parametrize("method", [b"OPTIONS", b"TRACE"])
async def test_max_forwards_counts_down(client: End, origin: Origin, method: bytes) -> None:
    end = await asked(client, origin, b"Max-Forwards: 10", method=method)
    assert b"\r\nMax-Forwards: 9\r\n" in end.received


async def test_max_forwards_of_other_methods_is_theirs(client: End, origin: Origin) -> None:
    end = await asked(client, origin, b"Max-Forwards: 0")
    assert b"\r\nMax-Forwards: 0\r\n" in end.received


async def test_the_last_hop_answers_by_itself(gateway: Gateway, origin: Origin) -> None:
    async with client_of(gateway) as client:
        await client.send(origin.request(b"Max-Forwards: 0", method=b"OPTIONS"))
        head = await client.head()
        assert head.startswith(b"HTTP/1.1 200 OK\r\nAllow: ")
        assert b"Content-Length: 0" in head
        await asked(client, origin)  # and the client may go on
    async with client_of(gateway) as client:
        await client.send(origin.request(b"Max-Forwards: 0", b"Cookie: secret", method=b"TRACE"))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 501")
        assert b"secret" not in answer
    for wrong in (b"-1", b"1.5", b"", b"1, 2"):
        async with client_of(gateway) as client:
            await client.send(origin.request(b"Max-Forwards: " + wrong, method=b"OPTIONS"))
            assert (await client.rest()).startswith(b"HTTP/1.1 400")
    assert origin.count == 1


async def test_a_circle_is_cut(gateway: Gateway, client: End) -> None:
    """What comes back through an exit is known by its Via; this machine itself is not dialled at all."""
    host = b"127.0.0.1:%d" % gateway.port
    await client.send(b"GET http://%b/ HTTP/1.1\r\nHost: a\r\n\r\n" % host)
    assert (await client.head()).startswith(b"HTTP/1.1 403")
    async with client_of(gateway) as again:
        via = b"Via: 1.1 elsewhere, 1.1 vpnexit (x)\r\n" + b"Via: 1.0 VPNexit\r\n" * (MAX_GATEWAYS - 1)
        await again.send(b"GET http://%b/ HTTP/1.1\r\nHost: a\r\n%b\r\n" % (host, via))
        answer = await again.rest()
        assert answer.startswith(b"HTTP/1.1 502")
        assert b"error=proxy_loop_detected" in answer


async def test_gateways_behind_gateways_work(client: End, origin: Origin) -> None:
    end = await asked(client, origin, *[b"Via: 1.1 vpnexit"] * (MAX_GATEWAYS - 1))
    assert b"\r\nVia: " + b", ".join([b"1.1 vpnexit"] * MAX_GATEWAYS) + b"\r\n" in end.received


@pytest.mark.parametrize("behind", [b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: a\r\n\r\n", b"nonsense %d\r\n\r\n"])
async def test_what_fails_behind_an_answered_request_is_not_its_exits(origin: Origin, behind: bytes) -> None:
    async with Inside() as inside:
        client = inside.connect()
        await client.send(origin.request())
        await (await origin.accepted()).send(OK)
        await client.until(b"ok")
        await client.send(behind % ports.free())
        assert (await client.rest()).startswith((b"HTTP/1.1 502", b"HTTP/1.1 400"))
        assert [line["node"] for line in inside.log] == ["zz000001", ""]
        assert inside.refusals() == {inside.reasons[1]: 1}
