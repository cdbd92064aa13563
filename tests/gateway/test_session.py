"""Sessions over real sockets, inside this process: every split of a handshake, every way to leave, nothing left."""

import asyncio
import contextlib
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator

import pytest

from deploy import ports
from gateway.session import Session
from gateway.want import Want
from gateway.wire.base import WireError
from gateway.wire.http_head import MAX_HEAD
from health.model import User
from health.reasons import Reason
from tests.conftest import STALL_S
from tests.gateway.inside import PASSWORD, Client, Inside, echoing, user
from tests.gateway.stub_fleet import node

DEADLINE_S = 1.0
PAYLOAD = b"first bytes for the target"


def connect(port: int, login: str = "", host: str = "127.0.0.1") -> bytes:
    field = b"\r\nProxy-Authorization: Basic " + b64encode(login.encode()) if login else b""
    return b"CONNECT %b:%d HTTP/1.1\r\nHost: a%b\r\n\r\n" % (host.encode(), port, field)


def socks4(port: int) -> bytes:
    return struct.pack("!BBH", 4, 1, port) + b"\x7f\0\0\1" + b"u\0"


def socks4a(port: int) -> bytes:
    return struct.pack("!BBH", 4, 1, port) + b"\0\0\0\1" + b"u\0" + b"localhost\0"


def socks5(port: int) -> bytes:
    return b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\0\0\1" + port.to_bytes(2)


def socks5_login(port: int) -> bytes:
    pair = b"\x01\x05alice" + bytes((len(PASSWORD),)) + PASSWORD.encode()
    return b"\x05\x02\x00\x02" + pair + b"\x05\x01\x00\x01\x7f\0\0\1" + port.to_bytes(2)


# What opens a tunnel, how the answer begins, and where it ends.
OPENINGS = {
    "connect": (connect, b"HTTP/1.1 200", b"\r\n\r\n"),
    "socks4": (socks4, b"\0\x5a", b"\0\x5a" + bytes(6)),
    "socks5": (socks5, b"\x05\0\x05\0\0\x01", b""),
    "socks5 with a log-in": (socks5_login, b"\x05\x02\x01\0\x05\0\0\x01", b""),
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with echoing() as made:
        yield made


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with Inside(user()) as made:
        yield made
        await made.nothing_left()


@pytest.fixture
async def asking() -> AsyncIterator[Inside]:
    """It asks for a user and password."""
    async with Inside(user(), require_auth=True) as made:
        yield made
        await made.nothing_left()


async def tunnel(inside: Inside, port: int) -> Client:
    client = inside.connect()
    await client.send(connect(port))
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    return client


# handshakes


@pytest.mark.parametrize("pieces", ["one segment", "byte by byte"])
@pytest.mark.parametrize("name", OPENINGS)
async def test_what_is_sent_along_with_the_handshake_arrives_first(
    inside: Inside, port: int, name: str, pieces: str
) -> None:
    opening, begins, _ = OPENINGS[name]
    sent = opening(port) + PAYLOAD
    client = inside.connect()
    if pieces == "one segment":
        await client.send(sent)
    else:
        for byte in sent:
            await client.send(bytes((byte,)))
            await asyncio.sleep(0)
    answer = await client.until(PAYLOAD)
    assert answer.startswith(begins)
    client.finish()
    assert await client.rest() == b""
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == ["ok"]
    assert inside.log[0]["bytes_in"] == inside.log[0]["bytes_out"] == len(PAYLOAD)


@pytest.mark.parametrize("name", OPENINGS)
async def test_a_handshake_cut_anywhere(inside: Inside, port: int, name: str) -> None:
    opening, begins, _ = OPENINGS[name]
    sent = opening(port) + b"z"
    for cut in range(1, len(sent)):
        client = inside.connect()
        await client.send(sent[:cut])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await client.send(sent[cut:])
        assert (await client.until(b"z")).startswith(begins), cut
        client.reset()
    await inside.until(lambda: not inside.worker.sessions)


# What a client sends before it falls silent, and the last words it gets.
SILENT = {
    "nothing": (b"", b""),
    "half a request": (b"GET http://a/ HTTP/1.1\r\nX: ", b"HTTP/1.1 408 "),
    "half a connect": (b"CONNECT a:4", b"HTTP/1.1 408 "),
    "half a greeting": (b"\x05\x04\x00", b"\x05\xff"),
    "no request": (b"\x05\x01\x00", b"\x05\x00" + b"\x05\x01\x00\x01" + bytes(6)),
    "no log-in": (b"\x05\x01\x02", b"\x05\x02" + b"\x01\x01"),
    "no request after the log-in": (
        b"\x05\x01\x02\x01\x05alice" + bytes((len(PASSWORD),)) + PASSWORD.encode(),
        b"\x05\x02\x01\x00" + b"\x05\x01\x00\x01" + bytes(6),
    ),
    "half a socks4 request": (b"\x04\x01\x00\x50\x7f", b"\0\x5b"),
    "half a signature": (b"\r\n\r\n\0", b""),
}


async def last_words(inside: Inside, sent: bytes, drip: bool) -> tuple[bytes, float]:
    """What a client is told that falls silent after `sent`, and after how many seconds."""
    client = inside.connect()
    began = asyncio.get_running_loop().time()
    if drip and sent:
        for byte in sent[:-2]:
            await client.send(bytes((byte,)))
            await asyncio.sleep(0.001)
        await client.send(sent[-2:])
    else:
        await client.send(sent)
    told = await client.rest()
    client.sock.close()
    return told, asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("drip", [False, True])
async def test_last_words_to_those_who_take_too_long(drip: bool) -> None:
    async with Inside(user(), handshake_timeout=DEADLINE_S) as inside:
        ends = await asyncio.gather(*(last_words(inside, sent, drip) for sent, _ in SILENT.values()))
        for (name, (_, expected)), (told, took) in zip(SILENT.items(), ends, strict=True):
            assert told.startswith(expected), name
            assert expected or not told, name
            assert DEADLINE_S * 0.9 < took < DEADLINE_S * 3 + STALL_S, name
        await inside.nothing_left()
        assert inside.reasons == ["handshake_timeout"] * len(SILENT)
        assert inside.refusals() == {"handshake_timeout": len(SILENT)}


async def test_urgent_data_in_a_handshake_holds_nobody_up(inside: Inside, port: int) -> None:
    client = inside.connect()
    head = connect(port)
    client.sock.send(head[:10])
    client.sock.send(b"!", socket.MSG_OOB)
    client.sock.send(head[10:])
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


# refusals


async def told_after_log_in(inside: Inside, name: str, port: int) -> bytes:
    """What a SOCKS5 client hears after its log-in was found right, to the end."""
    client = inside.connect()
    await client.send(b"\x05\x01\x02\x01" + bytes((len(name),)) + name.encode())
    await client.send(bytes((len(PASSWORD),)) + PASSWORD.encode())
    assert await client.until(b"\x01\0") == b"\x05\x02\x01\0"
    await client.send(b"\x05\x01\0\x01\x7f\0\0\1" + port.to_bytes(2) + PAYLOAD)
    client.finish()
    return await client.rest()


@pytest.mark.parametrize(
    ("name", "reason", "code"), [("alice-country-jp", "country_forbidden", 2), ("alice-country-jpx", "bad_want", 1)]
)
async def test_a_right_log_in_is_not_refused_for_what_it_asks_for(port: int, name: str, reason: str, code: int) -> None:
    """RFC 1929 has no word for why; the reply to the request has."""
    async with Inside(user(allowed_countries=("zz",)), require_auth=True) as inside:
        assert await told_after_log_in(inside, name, port) == b"\x05" + bytes((code, 0, 1)) + bytes(6)
        await inside.nothing_left()
        assert inside.reasons == [reason]
        assert inside.refusals() == {reason: 1}


@pytest.mark.parametrize("reason", [Reason.CONNECTION_LIMIT, Reason.QUOTA_USED])
async def test_a_right_log_in_is_not_refused_for_a_limit(
    asking: Inside, port: int, monkeypatch: pytest.MonkeyPatch, reason: Reason
) -> None:
    def refuse(_: User | None) -> None:
        raise WireError(reason, "too much")

    assert (await told_after_log_in(asking, "alice", port)).startswith(b"\x05\0\0\x01\x7f")
    monkeypatch.setattr(asking.worker.limiter, "admit", refuse)
    assert await told_after_log_in(asking, "alice", port) == b"\x05\x02\0\x01" + bytes(6)
    await asking.until(lambda: not asking.worker.sessions)
    assert asking.reasons == ["ok", reason.value]


@pytest.mark.parametrize(
    ("request_of", "begins"),
    [
        (connect, b"HTTP/1.1 502"),
        (socks4, b"\0\x5b"),
        (socks5, b"\x05\0\x05\x05\0\x01"),
    ],
)
async def test_the_answer_arrives_though_the_client_sends_on(inside: Inside, request_of: object, begins: bytes) -> None:
    """Closing with unread bytes would reset the connection, and the answer with it."""
    client = inside.connect()
    await client.send(request_of(ports.free()) + b"x" * 100_000)  # type: ignore[operator]
    answer = b""
    for _ in range(20):
        await client.send(b"more")
        await asyncio.sleep(0.001)
        if not (more := await client.some()):
            break
        answer += more
    assert answer.startswith(begins)
    client.sock.close()
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == ["refused"]


async def test_who_never_stops_sending_is_not_read_for_ever(inside: Inside) -> None:
    client = inside.connect()
    await client.send(connect(ports.free()))
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        await client.send(b"x" * (256 << 20))


async def test_a_head_without_end_is_refused(inside: Inside) -> None:
    client = inside.connect()
    await client.send(b"CONNECT a:1 HTTP/1.1\r\nX: " + b"x" * (MAX_HEAD + 10))
    assert (await client.rest()).startswith(b"HTTP/1.1 431")


# clients that leave


async def test_a_client_that_resets_while_it_is_dialled_for(inside: Inside) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # what comes beyond the backlog is not answered
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        link = inside.fleet.links["zz000001"]
        for times in (1, 2):  # the second time it is known who it is
            client = inside.connect()
            await client.send(connect(full.getsockname()[1]))
            await inside.until(lambda: link.dials, "dialling")
            await asyncio.sleep(0.05)
            assert link.dials, "the target does not answer"
            client.reset()
            await inside.until(lambda: not inside.worker.sessions)
            assert not link.dials
            assert inside.reasons == ["client_reset"] * times


async def test_a_client_that_resets_while_its_password_is_checked(asking: Inside, port: int) -> None:
    client = asking.connect()
    await client.send(connect(port, f"alice:{PASSWORD}"))
    await asking.until(lambda: asking.session._task is not None, "checking")
    client.reset()
    await asking.until(lambda: not asking.worker.sessions)
    assert asking.reasons == ["client_reset"]


async def test_a_client_that_is_gone_when_its_log_in_is_answered(asking: Inside) -> None:
    """The answer cannot be sent: the session ends, though no task of its own is left to end it."""
    client = asking.connect()
    await client.send(b"\x05\x01\x02")
    assert await client.until(b"\x05\x02")
    session = asking.session

    def gone(_: bytes) -> None:
        raise BrokenPipeError

    assert "send" in Session.__dict__
    original, Session.send = Session.send, lambda self, data: gone(data)  # type: ignore[method-assign, assignment]
    try:
        await client.send(b"\x01\x05alice" + bytes((len(PASSWORD),)) + PASSWORD.encode())
        await asking.until(lambda: session not in asking.worker.sessions, "its end")
    finally:
        Session.send = original  # type: ignore[method-assign]
    assert asking.reasons == ["client_reset"]


@pytest.mark.parametrize("when", ["with the request", "while dialling", "afterwards"])
async def test_a_client_that_has_said_all_still_gets_its_answer(inside: Inside, when: str) -> None:
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == PAYLOAD  # to its end
        writer.write(b"the answer")
        writer.close()
        answered.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        client = inside.connect()
        request = connect(server.sockets[0].getsockname()[1]) + PAYLOAD
        client.sock.send(request)
        if when == "with the request":
            client.finish()
        elif when == "while dialling":
            await asyncio.sleep(0)
            client.finish()
        else:
            await client.until(b"\r\n\r\n")
            client.finish()
        assert (await client.rest()).endswith(b"the answer")
        assert answered.is_set()
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == ["ok"]


async def test_a_half_close_after_a_kept_request_is_seen(inside: Inside) -> None:
    """GET, then CONNECT and the end in one go: its event came while plain HTTP was spoken."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4)
        if first == b"GET ":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
        else:
            assert first == b""
            ended.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = inside.connect()
        await client.send(b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % port)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.sock.send(connect(port))  # both before the gateway looks
        client.finish()
        assert (await client.rest()).startswith(b"HTTP/1.1 200")
        await asyncio.wait_for(ended.wait(), 20)


async def test_a_target_that_ends_with_its_upgrade_is_seen(inside: Inside) -> None:
    """Its end came while plain HTTP was spoken, in one event with the answer."""

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        writer.write_eof()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(switch, "127.0.0.1", 0)
    async with server:
        client = inside.connect()
        port = server.sockets[0].getsockname()[1]
        await client.send(
            b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % port
        )
        assert (await client.rest()).startswith(b"HTTP/1.1 101")


async def test_who_says_nothing_is_no_event_who_begins_is(inside: Inside) -> None:
    for sent in (b"", b"CONNECT a", b"\x05\x01", b"\x04\x01"):
        client = inside.connect()
        await client.send(sent)
        await asyncio.sleep(0.01)
        client.sock.close()
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == ["client_reset"] * 3


async def test_a_node_that_goes_away_takes_its_tunnels_along(inside: Inside, port: int) -> None:
    client = await tunnel(inside, port)
    inside.fleet.links["zz000001"].abort_all()
    with pytest.raises(ConnectionResetError):
        await client.rest()
    assert inside.reasons == ["node_lost"]


async def test_the_end_of_the_worker_cuts_everybody(inside: Inside, port: int) -> None:
    clients = [await tunnel(inside, port), inside.connect(), inside.connect()]
    await clients[2].send(b"CONNECT a")
    await asyncio.sleep(0.01)
    for session in list(inside.worker.sessions):
        session.abort()
    for client in clients:
        with pytest.raises(ConnectionResetError):
            await client.rest()
    assert inside.reasons == ["shutdown"] * 3


# the same request again


async def test_a_request_known_before_needs_no_task(asking: Inside, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = 0
    run = Session.run

    def counted(session: Session, work: object) -> None:
        nonlocal tasks
        tasks += 1
        run(session, work)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "run", counted)
    for _ in range(5):
        client = asking.connect()
        await client.send(connect(port, f"alice:{PASSWORD}"))
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.sock.close()
    assert tasks == 1


@pytest.mark.parametrize("change", ["another password", "deleted", "other countries"])
async def test_a_request_known_before_is_refused_at_once_when_its_user_changed(
    asking: Inside, port: int, change: str
) -> None:
    request = connect(port, f"alice-country-zz:{PASSWORD}")
    for _ in range(2):
        client = asking.connect()
        await client.send(request)
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        client.sock.close()
    changed: dict[str, list[User]] = {
        "another password": [user(password="another")],
        "deleted": [],
        "other countries": [user(allowed_countries=("jp",))],
    }
    asking.fleet.take(node("zz000001", kind="direct"), *changed[change])
    client = asking.connect()
    await client.send(request)
    expected = b"HTTP/1.1 403" if change == "other countries" else b"HTTP/1.1 407"
    assert (await client.rest()).startswith(expected)


async def test_a_request_known_before_beyond_a_limit_is_told_so() -> None:
    async with echoing() as port, Inside(user(max_connections=1), require_auth=True) as inside:
        request = connect(port, f"alice:{PASSWORD}")
        first = inside.connect()
        await first.send(request)
        assert (await first.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        second = inside.connect()
        await second.send(request)
        told = await second.rest()
        assert told.startswith(b"HTTP/1.1 4")
        assert b"onnections" in told
        await inside.nothing_left()


async def test_the_same_request_at_another_place_is_another_one(port: int) -> None:
    """A port that says the country; and one where a password is asked for."""
    records = [user(), node("us000001", kind="direct")]
    async with Inside(*records, trusted_proxies=["127.0.0.9/32"]) as inside:
        request = connect(port, "alice:wrong")
        for here, expected in ((("127.0.0.1", 10840), b"us000001"), (("127.0.0.1", 3128), b"000001")):
            client = inside.connect(here=here)
            await client.send(request)
            answer = await client.until(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200")
            assert expected in answer
        client = inside.connect("192.0.2.1", ("192.0.2.80", 3128))
        await client.send(request)
        assert (await client.rest()).startswith(b"HTTP/1.1 407")
        await inside.nothing_left()


async def test_two_users_with_one_head_apart_by_their_password(port: int) -> None:
    async with Inside(user(), user("bob", "bobs"), require_auth=True) as inside:
        for name, password in (("alice", PASSWORD), ("bob", "bobs"), ("alice", PASSWORD)):
            client = inside.connect()
            await client.send(connect(port, f"{name}:{password}"))
            await client.until(b"\r\n\r\n")
            client.sock.close()
            await inside.until(lambda: not inside.worker.sessions)
        assert [line["user"] for line in inside.log] == ["alice", "bob", "alice"]
        assert inside.worker.fleet.choose(Want(country="zz"), "").node.id == "zz000001"
        await inside.nothing_left()


# draining


class Slow:
    """An origin whose answers come when it may `go` on; of those to /halves only the second half waits."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                halves = b"/halves" in head
                if not halves:
                    await self.go.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
                await self.go.wait()
                writer.write(b"k")
        except asyncio.IncompleteReadError:
            writer.close()


async def test_a_drain_ends_kept_connections_and_answers_the_last_request(inside: Inside) -> None:
    origin = Slow()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    async with server:
        origin.go.set()
        get = b"GET http://127.0.0.1:%d/ HTTP/1.1\r\nHost: a\r\n\r\n" % server.sockets[0].getsockname()[1]
        idle, busy = inside.connect(), inside.connect()
        for client in (idle, busy):
            await client.send(get)
            assert b"connection: close" not in (await client.until(b"ok")).lower()
        origin.go.clear()
        await busy.send(get)
        await inside.until(lambda: origin.asked == 3, "the last request")
        inside.worker.drain()
        assert await idle.rest() == b""
        origin.go.set()
        answer = await busy.rest()
        assert answer.endswith(b"ok")
        assert b"\r\nconnection: close\r\n" in answer.lower()
        await asyncio.wait_for(inside.worker.empty.wait(), 20)
    assert inside.reasons == ["ok"] * 3


async def test_an_answer_begun_before_a_drain_is_the_last_one(inside: Inside) -> None:
    """It could not say so any more; the connection ends behind it all the same."""
    origin = Slow()
    server = await asyncio.start_server(origin.serve, "127.0.0.1", 0)
    async with server:
        client = inside.connect()
        port = server.sockets[0].getsockname()[1]
        await client.send(b"GET http://127.0.0.1:%d/halves HTTP/1.1\r\nHost: a\r\n\r\n" % port)
        head = await client.until(b"\r\n\r\no")
        inside.worker.drain()
        assert b"close" not in head.lower()
        origin.go.set()
        assert await client.rest() == b"k"
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == ["ok"]
