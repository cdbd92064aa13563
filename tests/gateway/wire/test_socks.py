from ipaddress import ip_address

import pytest

from gateway.wire.base import Target, WireError
from gateway.wire.socks import (
    Command,
    Credentials,
    Event,
    NeedData,
    Request,
    Send,
    Socks5Handshake,
    error_reply,
    reply,
)
from health.reasons import Reason

GREETING = b"\x05\x01\x00"
GREETING_PASSWORD = b"\x05\x02\x00\x02"


def login(user: bytes, password: bytes) -> bytes:
    return b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password


def request(atyp: int, host: bytes, port: int = 443, command: int = 1) -> bytes:
    return bytes([5, command, 0, atyp]) + host + port.to_bytes(2)


def named(host: bytes, port: int = 443, command: int = 1) -> bytes:
    return request(3, bytes([len(host)]) + host, port, command)


def play(data: bytes, *, auth_required: bool = False, piece: int = 0) -> tuple[list[Event], Socks5Handshake]:
    """Every event of a client that sends `data` in pieces of `piece` bytes (0: at once) and logs in well."""
    handshake = Socks5Handshake(auth_required)
    events: list[Event] = []
    size = piece or max(len(data), 1)
    for start in range(0, len(data), size):
        handshake.receive(data[start : start + size])
        while not isinstance(event := handshake.next_event(), NeedData):
            events.append(event)
            if isinstance(event, Request):
                return events, handshake
            if isinstance(event, Credentials):
                assert handshake.auth_result(True) == b"\x01\x00"
    return events, handshake


def refusal(data: bytes, *, auth_required: bool = False) -> WireError:
    with pytest.raises(WireError) as caught:
        play(data, auth_required=auth_required)
    with pytest.raises(WireError):
        play(data, auth_required=auth_required, piece=1)
    return caught.value


@pytest.mark.parametrize("piece", [0, 1, 2, 3, 7])
def test_greeting_and_request_in_any_pieces(piece: int) -> None:
    events, _ = play(GREETING + named(b"Example.org."), piece=piece)
    assert events == [Send(b"\x05\x00"), Request(Command.CONNECT, Target("example.org", 443))]


@pytest.mark.parametrize("piece", [0, 1, 5])
def test_a_login_in_any_pieces(piece: int) -> None:
    data = GREETING_PASSWORD + login(b"alice-country-jp", b"secret") + named(b"example.org")
    events, _ = play(data, auth_required=True, piece=piece)
    assert events == [
        Send(b"\x05\x02"),
        Credentials("alice-country-jp", "secret"),
        Request(Command.CONNECT, Target("example.org", 443)),
    ]


def test_the_password_method_is_preferred_where_it_is_not_required() -> None:
    events, _ = play(GREETING_PASSWORD + login(b"x-country-jp", b""))
    assert events == [Send(b"\x05\x02"), Credentials("x-country-jp", "")]


def test_a_password_is_in_no_text_form() -> None:
    assert "secret" not in repr(Credentials("alice", "secret"))


def test_what_follows_the_request_is_handed_on() -> None:
    _, handshake = play(GREETING + named(b"example.org") + b"\x16\x03\x01early")
    assert handshake.leftover == b"\x16\x03\x01early"


@pytest.mark.parametrize(
    ("atyp", "host", "text"),
    [
        (1, b"\xc6\x12\x00\x07", "198.18.0.7"),
        (4, ip_address("2001:2::7").packed, "2001:2::7"),
        (3, b"\x0a198.18.0.7", "198.18.0.7"),
        (3, b"\x092001:2::7", "2001:2::7"),
    ],
)
def test_literals_carry_their_address(atyp: int, host: bytes, text: str) -> None:
    events, _ = play(GREETING + request(atyp, host))
    assert events[-1] == Request(Command.CONNECT, Target(text, 443, ip_address(text)))


@pytest.mark.parametrize("greeting", [b"\x05\x00", b"\x05\x01\x01", b"\x05\x03\x01\x80\xff"])
def test_no_acceptable_method(greeting: bytes) -> None:
    error = refusal(greeting)
    assert (error.reason, error.reply) == (Reason.BAD_REQUEST, b"\x05\xff")


@pytest.mark.parametrize("greeting", [b"\x05\x00", GREETING])
def test_a_client_without_a_password_where_one_is_required(greeting: bytes) -> None:
    error = refusal(greeting, auth_required=True)
    assert (error.reason, error.reply) == (Reason.AUTH_REQUIRED, b"\x05\xff")


@pytest.mark.parametrize(
    "data",
    [
        GREETING_PASSWORD + named(b"example.org"),  # the request before the log-in
        GREETING_PASSWORD + b"\x02\x01a\x01b",
        GREETING + b"\x04\x01\x00\x01",
        GREETING + login(b"alice", b"secret"),
        b"\x04\x01\x00\x50\xc6\x12\x00\x07x\x00",
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/1.1\r\n",
    ],
)
def test_a_wrong_version_closes_without_a_word(data: bytes) -> None:
    error = refusal(data)
    assert (error.reason, error.reply) == (Reason.BAD_REQUEST, b"")


@pytest.mark.parametrize(
    ("data", "reason", "code"),
    [
        (request(2, b"\x04abcd"), Reason.ADDRESS_UNSUPPORTED, 8),
        (request(0, b""), Reason.ADDRESS_UNSUPPORTED, 8),
        (named(b"example.org", command=2), Reason.COMMAND_UNSUPPORTED, 7),  # BIND
        (named(b"example.org", command=99), Reason.COMMAND_UNSUPPORTED, 7),
        (named(b"example.org", command=0), Reason.COMMAND_UNSUPPORTED, 7),
        (named(b"example.org", port=0), Reason.BAD_REQUEST, 1),
        (request(1, b"\xc6\x12\x00\x07", port=0), Reason.BAD_REQUEST, 1),
        (b"\x05\x01\x01\x01\xc6\x12\x00\x07\x01\xbb", Reason.BAD_REQUEST, 1),  # reserved byte
        (named(b""), Reason.BAD_REQUEST, 1),
        (named(b"127.0.0.1\x00.evil.example"), Reason.BAD_REQUEST, 1),
        (named("bücher.example".encode()), Reason.BAD_REQUEST, 1),
        (named("\uff11\uff12\uff17.0.0.1".encode()), Reason.BAD_REQUEST, 1),
        (named(b"0x7f000001"), Reason.BAD_REQUEST, 1),
        (named(b"127.1"), Reason.BAD_REQUEST, 1),
        (named(b"[::1]"), Reason.BAD_REQUEST, 1),
        (named(b"example.org%00"), Reason.BAD_REQUEST, 1),
        (named(b"a" * 255), Reason.NAME_NOT_FOUND, 4),
        (named(b".".join([b"a" * 63] * 4)), Reason.NAME_NOT_FOUND, 4),
    ],
)
def test_a_bad_request_gets_one_reply(data: bytes, reason: Reason, code: int) -> None:
    error = refusal(GREETING + data)
    assert (error.reason, error.reply) == (reason, bytes([5, code, 0, 1]) + bytes(6))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (request(1, bytes(4), port=0, command=3), Target("0.0.0.0", 0, ip_address("0.0.0.0"))),
        (request(1, b"\xc6\x12\x00\x07", port=40000, command=3), Target("198.18.0.7", 40000, ip_address("198.18.0.7"))),
        (request(4, bytes(16), port=0, command=3), Target("::", 0, ip_address("::"))),
        (named(b"client.example", port=0, command=3), Target("0.0.0.0", 0, ip_address("0.0.0.0"))),
        (named(b"0", port=0, command=3), Target("0.0.0.0", 0, ip_address("0.0.0.0"))),  # what PySocks sends
    ],
)
@pytest.mark.parametrize("piece", [0, 1])
def test_an_association_names_where_its_datagrams_come_from(data: bytes, expected: Target, piece: int) -> None:
    events, _ = play(GREETING + data, piece=piece)
    assert events[-1] == Request(Command.UDP_ASSOCIATE, expected)


def test_the_longest_name_works() -> None:
    name = b".".join([b"a" * 63] * 3 + [b"b" * 61])
    events, _ = play(GREETING + named(name + b"."))
    assert events[-1] == Request(Command.CONNECT, Target(name.decode(), 443))


@pytest.mark.parametrize(
    ("user", "password"), [(b"a\0b", b"p\0"), (b"", b""), (b"u" * 255, b"p" * 255), (b"\xff", b"\xfe")]
)
def test_odd_credentials_reach_the_check_like_any_other(user: bytes, password: bytes) -> None:
    events, _ = play(GREETING_PASSWORD + login(user, password), auth_required=True)
    assert events[-1] == Credentials(user.decode("latin-1"), password.decode("latin-1"))


def test_a_refused_login_ends_the_handshake() -> None:
    handshake = Socks5Handshake(True)
    handshake.receive(GREETING_PASSWORD + login(b"alice", b"wrong") + named(b"example.org"))
    assert [type(handshake.next_event()) for _ in range(2)] == [Send, Credentials]
    with pytest.raises(RuntimeError):
        handshake.next_event()
    assert handshake.auth_result(False) == b"\x01\x01"
    with pytest.raises(RuntimeError):
        handshake.next_event()
    with pytest.raises(RuntimeError):
        handshake.auth_result(True)


def test_what_is_denied_is_told_when_it_is_asked_for() -> None:
    denied = WireError(Reason.COUNTRY_FORBIDDEN, "not there")
    handshake = Socks5Handshake(True)
    handshake.receive(GREETING_PASSWORD + login(b"alice", b"right"))
    assert [type(handshake.next_event()) for _ in range(2)] == [Send, Credentials]
    assert handshake.auth_result(True, denied) == b"\x01\x00"
    assert isinstance(handshake.next_event(), NeedData)
    handshake.receive(named(b"example.org"))
    with pytest.raises(WireError) as raised:
        handshake.next_event()
    assert raised.value is denied


def test_nothing_comes_after_the_request_or_an_error() -> None:
    _, handshake = play(GREETING + named(b"example.org"))
    with pytest.raises(RuntimeError):
        handshake.next_event()
    handshake = Socks5Handshake(False)
    handshake.receive(b"\x04")
    with pytest.raises(WireError):
        handshake.next_event()
    with pytest.raises(RuntimeError):
        handshake.next_event()


def test_replies() -> None:
    assert reply(0) == b"\x05\x00\x00\x01" + bytes(6)
    assert reply(0, ip_address("198.18.0.7"), 40000) == b"\x05\x00\x00\x01\xc6\x12\x00\x07\x9c\x40"
    assert reply(0, ip_address("2001:2::7"), 1) == b"\x05\x00\x00\x04" + ip_address("2001:2::7").packed + b"\x00\x01"


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.REFUSED, 5),
        (Reason.HOST_UNREACHABLE, 4),
        (Reason.NETWORK_UNREACHABLE, 3),
        (Reason.TARGET_FORBIDDEN, 2),
        (Reason.NAME_NOT_FOUND, 4),
        (Reason.TARGET_TIMEOUT, 6),
        (Reason.NO_NODE, 1),
    ],
)
def test_an_outcome_has_its_reply_code(reason: Reason, code: int) -> None:
    assert error_reply(reason)[1] == code
