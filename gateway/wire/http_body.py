"""Where the body of an HTTP/1.1 message ends (RFC 9112 sections 6 and 7), and how it is framed anew.

A body takes bytes as they come and gives back its payload at once: it keeps at most one incomplete line or trailer
section. Chunks are joined per call, so that a million tiny ones cost a loop here and nothing on the way on.
"""

import re

from gateway.wire.base import WireError
from gateway.wire.http_head import Answer, Field, Head, parse_trailers
from health.reasons import Reason

MAX_CHUNK_LINE = 4096  # bytes, extensions included
MAX_TRAILERS = 16384  # bytes
MAX_CONTENT_LENGTH = 2**63 - 1

LENGTH = re.compile(rb"[0-9]{1,19}")
# At most 2^48 - 1 bytes. Some servers fill the size with spaces; extensions are dropped, as by any who does not know
# them.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")


class Sized:
    """A body of `length` bytes; 0 is none at all."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.done = length == 0
        self.trailers: list[Field] = []

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The payload in `data`, and what lies behind the body's end."""
        payload, rest = (data, b"") if len(data) <= self._left else (data[: self._left], data[self._left :])
        self._left -= len(payload)
        self.done = self._left == 0
        return payload, rest

    def end(self) -> None:
        """The connection ended. Raises WireError (BAD_REQUEST) if the body had not."""
        if not self.done:
            raise _refuse(f"the body ended {self._left} bytes short of its Content-Length")


class Chunked:
    """A chunked body; its trailer fields are in `trailers` when it is done."""

    def __init__(self) -> None:
        self.done = False
        self.trailers: list[Field] = []
        self._held = b""
        self._left = 0  # of the chunk that is open, its CR LF included
        self._last = False  # the last chunk was seen, the trailer section follows

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The payload in `data`, and what lies behind the body's end. Raises WireError (BAD_REQUEST, TOO_LARGE)."""
        data = self._held + data
        self._held = b""
        payload: list[bytes] = []
        position = self._take(data, 0, payload)
        while not self._left and not self._last and (match := _CHUNK_LINE.match(data, position)) is not None:
            start, size = match.end(), int(match[1], 16)
            if size and data[start + size : start + size + 2] == b"\r\n":
                payload.append(data[start : start + size])
                position = start + size + 2
                continue
            self._last, self._left = size == 0, size + 2 if size else 0
            position = self._take(data, start, payload)
        rest = data[position:]
        if self._last:
            rest = self._trailer(rest)
        elif not self._left:
            self._hold_line(rest)
            rest = b""
        return b"".join(payload), rest

    def end(self) -> None:
        """The connection ended. Raises WireError (BAD_REQUEST) if the body had not."""
        if not self.done:
            raise _refuse("the chunked body ended before its last chunk")

    def _take(self, data: bytes, position: int, payload: list[bytes]) -> int:
        """Take what is there of the open chunk and of the CR LF behind it; returns the new position."""
        part = data[position : position + self._left]
        body = max(0, min(len(part), self._left - 2))
        if not b"\r\n"[2 - min(self._left, 2) :].startswith(part[body:]):
            raise _refuse("a chunk does not end where its size says")
        payload.append(part[:body])
        self._left -= len(part)
        return position + len(part)

    def _hold_line(self, line: bytes) -> None:
        """Keep an incomplete chunk line for the next call."""
        if b"\n" in line:
            raise _refuse("a chunk does not begin with its size in hexadecimal")
        if len(line) > MAX_CHUNK_LINE:
            raise _refuse(f"a chunk's line is longer than {MAX_CHUNK_LINE} bytes")
        self._held = line

    def _trailer(self, data: bytes) -> bytes:
        if data.startswith(b"\r\n"):
            self.done = True
            return data[2:]
        end = data.find(b"\r\n\r\n", 0, MAX_TRAILERS)
        if end < 0:
            if len(data) >= MAX_TRAILERS:
                raise WireError(Reason.TOO_LARGE, f"the trailer is larger than {MAX_TRAILERS} bytes")
            self._held = data
            return b""
        self.trailers = parse_trailers(data[:end])
        self.done = True
        return data[end + 4 :]


class UntilClose:
    """An answer's body that ends with the connection."""

    def __init__(self) -> None:
        self.done = False
        self.trailers: list[Field] = []

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """All of it is payload."""
        return data, b""

    def end(self) -> None:
        """The connection ended, and with it the body."""
        self.done = True


Body = Sized | Chunked | UntilClose


def request_body(head: Head) -> Body:
    """The body that follows `head`, which must have passed `http_rules.check_framing`."""
    if head.values(b"transfer-encoding"):
        return Chunked()
    lengths = head.values(b"content-length")
    return Sized(int(lengths[0]) if lengths else 0)


def answer_body(answer: Answer, method: bytes) -> Body:
    """The body that follows the final answer to a request of `method` (RFC 9112 section 6.3).

    Raises:
        WireError: TARGET_PROTOCOL when two parsers could see its end in different places, or for a transfer coding
            that was not asked for.
    """
    codings, lengths = answer.values(b"transfer-encoding"), set(answer.values(b"content-length"))
    if codings and (lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or answer.version == b"1.0"):
        raise _bad_answer("Transfer-Encoding is not 'chunked' alone")
    if len(lengths) > 1 or not all(LENGTH.fullmatch(value) and int(value) <= MAX_CONTENT_LENGTH for value in lengths):
        raise _bad_answer("Content-Length is not one number of bytes")
    if method == b"HEAD" or answer.status in (204, 304):
        return Sized(0)
    if codings:
        return Chunked()
    return Sized(int(lengths.pop())) if lengths else UntilClose()


def chunk(payload: bytes) -> bytes:
    """`payload` as one chunk; nothing at all for none, since that would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


def last_chunk(trailers: list[Field]) -> bytes:
    """The end of a chunked body."""
    return b"".join((b"0\r\n", *(b"%b: %b\r\n" % field for field in trailers), b"\r\n"))


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_REQUEST, detail)


def _bad_answer(detail: str) -> WireError:
    return WireError(Reason.TARGET_PROTOCOL, f"the answer's {detail}")
