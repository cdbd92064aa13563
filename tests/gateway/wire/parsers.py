"""Every parser of client, target or upstream bytes as one function: bytes, cut where told, in; what came of them out.

The outcome must not depend on the cuts. Only WireError may escape a parser (it becomes part of the outcome), and none
may ask for more than its limit. Property tests and fuzzing both stand on this; `seeds` are good conversations.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from gateway import want
from gateway.wire import http_body, http_connect, http_head, http_rules, proxy_protocol, sniff, socks, socks4, socks_udp
from gateway.wire.base import Target, WireError, parse_host, parse_port
from gateway.wire.http_reply import MAX_DETAIL
from gateway.wire.sniff import PROXY_V2_SIGNATURE
from gateway.wire.upstream_http import MAX_HEAD as MAX_UPSTREAM_HEAD
from gateway.wire.upstream_http import HttpClient
from gateway.wire.upstream_socks import Socks5Associate, Socks5Client
from health.reasons import Reason

Cuts = Sequence[int]
MORE = "more"
MAX_SOCKS = 1 + 1 + 255 + 1 + 255  # bytes: the longest message, user name and password
MAX_SOCKS4 = 8 + socks4.MAX_USER_ID + 1 + 255 + 1
MAX_SOCKS_REPLY = 4 + 1 + 255 + 2


class Refusal(NamedTuple):
    """What a WireError says."""

    reason: Reason
    detail: str
    reply: bytes


class Parser(NamedTuple):
    run: Callable[[bytes, Cuts], object]
    seeds: tuple[bytes, ...]


def pieces(data: bytes, cuts: Cuts) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(at for at in cuts if 0 < at < len(data))})
    for first, last in pairwise(edges):
        yield data[first:last]


def refusal(error: WireError) -> Refusal:
    assert error.detail.isprintable()
    assert len(error.detail) <= MAX_DETAIL
    return Refusal(error.reason, error.detail, error.reply)


def grow(parse: Callable[[bytes, int], object], data: bytes, cuts: Cuts, most: int) -> object:
    """The first answer of `parse`, told how much it saw before, that is not None, with the bytes growing."""
    seen = b""
    for piece in pieces(data, cuts):
        scanned, seen = len(seen), seen + piece
        try:
            result = parse(seen, scanned)
        except WireError as error:
            return refusal(error)
        if result is not None:
            return result
        assert len(seen) < most, "asks for more than its limit"
    return MORE


def sniffed(data: bytes, cuts: Cuts) -> object:
    return grow(lambda seen, _: sniff.sniff(seen), data, cuts, len(PROXY_V2_SIGNATURE))


def proxy_header(data: bytes, cuts: Cuts) -> object:
    found = grow(lambda seen, _: proxy_protocol.parse(seen), data, cuts, 16 + proxy_protocol.MAX_V2_BODY)
    if isinstance(found, tuple) and not isinstance(found, Refusal):
        header, used = found
        assert 0 < used <= len(data)
        assert header.unique_id is None or len(header.unique_id) <= proxy_protocol.MAX_UNIQUE_ID
    return found


def request(data: bytes, cuts: Cuts) -> object:
    """A head, what it asks for, and its body."""
    head = grow(http_head.parse_head, data, cuts, http_head.MAX_HEAD)
    if not isinstance(head, http_head.Head):
        return head
    assert head.consumed <= len(data)
    try:
        asked = _asked(head)
    except WireError as error:
        return head, refusal(error)
    if head.method == b"CONNECT":
        return head, asked, data[head.consumed :]
    rest = data[head.consumed :]
    return head, asked, carried(http_body.request_body(head), rest, [at - head.consumed for at in cuts])


def _asked(head: http_head.Head) -> object:
    http_rules.check_framing(head)
    login = http_connect.credentials(head)
    if head.method == b"CONNECT":
        return login, _good(http_connect.connect_target(head))
    target, path, host = http_connect.absolute_target(head)
    fields = http_rules.forward_headers(head, host, upgrade=http_rules.wants_websocket(head))
    again = http_head.parse_head(http_rules.write_head(b"%b %b HTTP/1.1" % (head.method, path), fields))
    assert again is not None, "what goes on is no complete head"
    assert len(again.values(b"host")) == 1
    assert not any(key.startswith(b"proxy-") for key, _ in again.headers)
    http_rules.check_framing(again)
    return login, _good(target), fields


def _good(target: Target) -> Target:
    """A target that every later part may rely on."""
    assert 1 <= target.port <= 65535
    assert target.host.isascii()
    assert target.host == target.host.lower()
    assert 0 < len(target.host) <= 255
    assert parse_host(target.host) == (target.host, target.address)
    return target


def answer(data: bytes, cuts: Cuts) -> object:
    """A target's answer to GET: its head, the fields that go on, and its body."""
    head = grow(http_head.parse_answer, data, cuts, http_head.MAX_HEAD)
    if not isinstance(head, http_head.Answer):
        return head
    rest = data[head.consumed :]
    try:
        body = http_body.answer_body(head, b"GET")
        fields = http_rules.response_headers(head)
    except WireError as error:
        return head, refusal(error)
    # Without a line that a client could take for the end of the head.
    assert http_rules.write_head(b"HTTP/1.1 200 OK", fields).find(b"\r\n\r\n") + 4 == len(
        http_rules.write_head(b"HTTP/1.1 200 OK", fields)
    )
    return head, fields, carried(body, rest, [at - head.consumed for at in cuts])


def carried(body: http_body.Body, data: bytes, cuts: Cuts) -> object:
    """What a body carries; a broken one carries nothing that counts, since its message ends in an abort."""
    payload, left = b"", b""
    try:
        for piece in pieces(data, cuts):
            part, left = body.feed(left + piece) if not body.done else (b"", left + piece)
            payload += part
            assert body.done or not left
            assert len(getattr(body, "_held", b"")) <= http_body.MAX_TRAILERS
        if body.done:
            return payload, http_rules.forward_trailers(body.trailers), left
        body.end()
    except WireError as error:
        return refusal(error) if isinstance(body, http_body.Sized) else error.reason
    return payload


def socks5(data: bytes, cuts: Cuts) -> object:
    return [_socks5(data, cuts, auth_required) for auth_required in (False, True)]


def _socks5(data: bytes, cuts: Cuts, auth_required: bool) -> object:
    handshake = socks.Socks5Handshake(auth_required)
    events: list[object] = []
    given = list(pieces(data, cuts))
    for number, piece in enumerate(given):
        handshake.receive(piece)
        while True:
            try:
                event = handshake.next_event()
            except WireError as error:
                return [*events, refusal(error)]
            if isinstance(event, socks.NeedData):
                assert len(handshake.leftover) <= MAX_SOCKS
                break
            events.append(event)
            if isinstance(event, socks.Credentials):
                handshake.auth_result(True)
            if isinstance(event, socks.Request):
                if event.command is socks.Command.CONNECT:
                    _good(event.target)
                return events, handshake.leftover + b"".join(given[number + 1 :])
    return events, handshake.leftover


def socks4_request(data: bytes, cuts: Cuts) -> object:
    handshake = socks4.Socks4Handshake(auth_required=False)
    given = list(pieces(data, cuts))
    for number, piece in enumerate(given):
        handshake.receive(piece)
        try:
            event = handshake.next_event()
        except WireError as error:
            return refusal(error)
        if isinstance(event, socks4.Request):
            _good(event.target)
            return event, handshake.leftover + b"".join(given[number + 1 :])
        assert len(handshake.leftover) <= MAX_SOCKS4
    return MORE


def udp_header(data: bytes, _: Cuts) -> object:
    """One datagram is one message: nothing to cut."""
    try:
        start = socks_udp.data_start(data)
        assert start <= min(len(data), socks_udp.MAX_HEADER)
        return _good(socks_udp.target(data[socks_udp.DESTINATION : start])), data[start:]
    except WireError as error:
        return refusal(error)


def upstream_socks(data: bytes, cuts: Cuts) -> object:
    return [
        _upstream(Socks5Client(target, login), data, cuts, MAX_SOCKS_REPLY)
        for target in (Target("example.org", 443), Target("198.18.0.1", 80, parse_host("198.18.0.1")[1]))
        for login in (None, (b"user", b"secret"))
    ]


def upstream_relay(data: bytes, cuts: Cuts) -> object:
    """Where datagrams are to go is part of what comes out."""
    outcomes: list[object] = []
    for login in (None, (b"user", b"secret")):
        client = Socks5Associate(login)
        outcomes.append(_upstream(client, data, cuts, MAX_SOCKS_REPLY))
        if client.connected:
            assert 0 <= client.bound.port <= 65535
            outcomes.append(client.bound)
    return outcomes


def upstream_http(data: bytes, cuts: Cuts) -> object:
    return _upstream(HttpClient(Target("example.org", 443), (b"user", b"secret")), data, cuts, MAX_UPSTREAM_HEAD)


def _upstream(client: Socks5Client | HttpClient, data: bytes, cuts: Cuts, most: int) -> object:
    """As the shell does it: what belongs to the handshake is taken, the rest waits."""
    sent, waiting, taken = client.opening, b"", 0
    try:
        for piece in pieces(data, cuts):
            waiting += piece
            while waiting and not client.connected:
                count = client.belongs(waiting)
                assert 1 <= count <= len(waiting)
                sent += client.receive(waiting[:count])
                waiting, taken = waiting[count:], taken + count
                assert taken <= 4 + most, "takes more than its limit"
    except WireError as error:
        return sent, refusal(error)
    return sent, client.connected, waiting


def wanted(data: bytes, _: Cuts) -> object:
    """A proxy user name."""
    try:
        user, found = want.parse_username(data.decode("latin-1"))
    except WireError as error:
        return refusal(error)
    assert len(user) <= 64
    assert want.merge(found, found) == found
    return user, found


def host_and_port(data: bytes, _: Cuts) -> object:
    host, _, port = data.decode("latin-1").rpartition(":")
    try:
        name, address = parse_host(host)
        return _good(Target(name, parse_port(port), address)) if port else (name, address)
    except WireError as error:
        return refusal(error)


GET = b"GET http://example.org/a?b HTTP/1.1\r\nHost: example.org\r\n"
POST = b"POST http://[2001:db8::1]:81/ HTTP/1.1\r\nHost: x\r\n"
V2 = PROXY_V2_SIGNATURE + b"\x21\x11\x00\x17\xc6\x12\x00\x07\xc6\x12\x00\x01\x9c\x40\x28\x98"
GREETING, LOGIN = b"\x05\x02\x00\x02", b"\x01\x05alice\x06secret"
NAMED = b"\x05\x01\x00\x03\x0bexample.org\x01\xbb"

PARSERS: dict[str, Parser] = {
    "sniff": Parser(sniffed, (GET, GREETING, b"\x04\x01", b"PROXY TCP4 ", V2, b"\x16\x03\x01", b"\r\nGET ")),
    "proxy_protocol": Parser(
        proxy_header,
        (
            b"PROXY TCP4 198.18.0.7 198.18.0.1 40000 10392\r\n" + GET,
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n",
            b"PROXY UNKNOWN what ever\r\n",
            V2 + b"\x02\x00\x08ab.cd.ef" + GREETING,
            PROXY_V2_SIGNATURE + b"\x21\x21\x00\x2d" + bytes(36) + b"\x05\x00\x06unique",
            PROXY_V2_SIGNATURE + b"\x20\x00\x00\x00",
            PROXY_V2_SIGNATURE + b"\x21\x11\x00\x13" + bytes(12) + b"\x03\x00\x04\x7e\x1d\xfb\xdd",
            PROXY_V2_SIGNATURE + b"\x21\x11\x00\x14" + bytes(12) + b"\x20\x00\x05\x01\x00\x00\x00\x00",
        ),
    ),
    "http_request": Parser(
        request,
        (
            GET + b"X: y\r\n\r\nGET ",
            b"\r\n" + GET + b"Connection: X-Hop, close\r\nX-Hop: 1\r\nVia: 1.1 other\r\n\r\n",
            b"CONNECT example.org:443 HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\nearly",
            b"CONNECT [2001:db8::1]:443 HTTP/1.0\r\n\r\n",
            POST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbodyPOST",
            POST + b"Transfer-Encoding: chunked\r\n\r\n4;a=b\r\nbody\r\n0\r\nTrailer: x\r\n\r\nnext",
            GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"OPTIONS http://example.org HTTP/1.1\r\nHost: a\r\nMax-Forwards: 3\r\n\r\n",
        ),
    ),
    "http_answer": Parser(
        answer,
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyrest",
            b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX: y\r\n\r\n",
            b"HTTP/1.0 404 Not Found\r\nConnection: close\r\n\r\nuntil the end",
            b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00",
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nProxy-Status: a\r\nVia: 1.0 b\r\n\r\n",
        ),
    ),
    "socks5": Parser(
        socks5,
        (
            GREETING + LOGIN + NAMED + b"early",
            b"\x05\x01\x00\x05\x01\x00\x01\xc6\x12\x00\x01\x00\x50",
            b"\x05\x01\x00\x05\x01\x00\x04" + bytes(15) + b"\x01\x01\xbb",
            b"\x05\x01\x02" + LOGIN + b"\x05\x03\x00\x01\x00\x00\x00\x00\x00\x00",
        ),
    ),
    "socks4": Parser(
        socks4_request,
        (
            b"\x04\x01\x00\x50\xc6\x12\x00\x01alice\x00early",
            b"\x04\x01\x01\xbb\x00\x00\x00\x01u-country-jp\x00example.org\x00",
        ),
    ),
    "socks_udp": Parser(
        udp_header,
        (
            b"\x00\x00\x00\x01\xc6\x12\x00\x01\x00\x35data",
            b"\x00\x00\x00\x03\x0bexample.org\x00\x35data",
            b"\x00\x00\x00\x04" + bytes(15) + b"\x01\x00\x35",
        ),
    ),
    "upstream_socks": Parser(
        upstream_socks,
        (
            b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00tunnel",
            b"\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x01\xbbtunnel",
            b"\x05\x02\x01\x00\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\x05\x02\x01\x01",
        ),
    ),
    "upstream_relay": Parser(
        upstream_relay,
        (
            b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x04\x38",
            b"\x05\x02\x01\x00\x05\x00\x00\x03\x04name\x01\xbb",
            b"\x05\x02\x01\x00\x05\x00\x00\x04" + bytes(16) + b"\x01\xbb",
            b"\x05\x00\x05\x07\x00\x01" + bytes(6),
        ),
    ),
    "upstream_http": Parser(
        upstream_http,
        (
            b"HTTP/1.1 200 Connection established\r\nX-Exit-Node: jp000001\r\n\r\ntunnel",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n",
            b'HTTP/1.1 502 Bad\r\nProxy-Status: up; details="a;error=b"; error=dns_error\r\n\r\n',
        ),
    ),
    "want": Parser(
        wanted,
        (b"alice", b"alice-country-jp-city-tokyo-session-a1b2-ttl-30m-strict", b"a.b-node-jp3f9a1c", b"-country-uk"),
    ),
    "host": Parser(
        host_and_port,
        (b"example.org.:443", b"127.0.0.1:80", b"0x7f.1:80", b"2001:db8::1:80", b"_a-b.XN--Q:1", b"::ffff:1.2.3.4:65"),
    ),
}  # fmt: skip
