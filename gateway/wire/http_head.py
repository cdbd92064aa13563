"""The head of an HTTP/1.x request or answer, read strictly (RFC 9112 sections 2 to 5).

What another parser might read differently is refused, never repaired: that is what request smuggling lives on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.wire.base import WireError
from health.reasons import Reason

MAX_HEAD = 65536  # bytes, the final empty line included
MAX_FIELDS = 256

Field = tuple[bytes, bytes]

_END = b"\r\n\r\n"
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST_LINE = re.compile(rb"(%b) ([\x21-\x7e]+) HTTP/([0-9]\.[0-9])" % _TOKEN)
# A reason phrase may be missing with its space, as some servers send it; some use codes above 599.
_STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]) ([1-9][0-9]{2})(?: (.*))?")
_TOKEN_BYTES = bytes(byte for byte in range(128) if re.fullmatch(_TOKEN, bytes((byte,))))
_HEAD_BYTES = b"\t\r\n" + bytes((*range(0x20, 0x7F), *range(0x80, 0x100)))


@dataclass(frozen=True, slots=True)
class Head:
    """A request head.

    `target` as it was sent; `version` is b"1.0" or b"1.1"; `headers` with lower-case names, in order, whitespace
    around values removed; `names` are the same names as the client wrote them; `consumed` is the length in bytes.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: list[Field]
    names: tuple[bytes, ...]
    consumed: int

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field `name` (lower case), in order."""
        return [value for key, value in self.headers if key == name]

    def __repr__(self) -> str:
        return f"Head({self.method!r}, ..., HTTP/{self.version.decode()}, {len(self.headers)} fields)"


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer: `status` 100-999, `phrase` maybe empty, the rest as in Head."""

    status: int
    phrase: bytes
    version: bytes
    headers: list[Field]
    names: tuple[bytes, ...]
    consumed: int

    def values(self, name: bytes) -> list[bytes]:
        """All values of the field `name` (lower case), in order."""
        return [value for key, value in self.headers if key == name]


def parse_head(data: bytes | bytearray, scanned: int = 0) -> Head | None:
    """Read the request head that `data` begins with; one empty line before it is skipped (RFC 9112 section 2.2).

    Returns None while it is not complete. `scanned` is how many bytes of `data` an earlier call has already seen
    (and wanted more): they are not looked at again until the head is complete, so that dripping bytes cost no more
    than a whole segment.

    Raises:
        WireError: TOO_LARGE beyond 64 KiB or 256 fields, BAD_REQUEST, or NOT_IMPLEMENTED for another HTTP version.
    """
    start = 2 if data.startswith(b"\r\n") else 0
    lines = _read_lines(data, start, scanned, "request")
    if lines is None:
        return None
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise _refuse("the request line is not 'METHOD target HTTP/1.1'")
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        raise WireError(Reason.NOT_IMPLEMENTED, f"HTTP/{version.decode()} is not supported: use HTTP/1.1")
    headers, names = _fields(lines, "request")
    return Head(method, target, version, headers, names, start + _size(lines))


def parse_answer(data: bytes | bytearray, scanned: int = 0) -> Answer | None:
    """Read the head of the answer that `data` begins with; None while it is not complete, `scanned` as above.

    Raises:
        WireError: TARGET_PROTOCOL, with the same limits and the same strictness as for requests.
    """
    try:
        lines = _read_lines(data, 0, scanned, "answer")
        if lines is None:
            return None
        match = _STATUS_LINE.fullmatch(lines[0])
        if match is None:
            raise _refuse("the answer has no valid status line")
        headers, names = _fields(lines, "answer")
    except WireError as error:
        raise WireError(Reason.TARGET_PROTOCOL, error.detail) from None
    version, status, phrase = match.groups()
    # A higher minor version than ours speaks ours as well (RFC 9110 section 2.5).
    version = b"1.0" if version == b"1.0" else b"1.1"
    return Answer(int(status), phrase or b"", version, headers, names, _size(lines))


def parse_trailers(section: bytes) -> list[Field]:
    """The fields of a trailer section (RFC 9112 section 7.1.2) without its final empty line, names as written.

    Raises WireError (BAD_REQUEST, TOO_LARGE).
    """
    if _broken(section):
        raise _refuse("the trailer holds a control character or a line that does not end with CR LF")
    lines = [b"", *section.split(b"\r\n")]
    headers, names = _fields(lines, "trailer")
    return [(name, value) for name, (_, value) in zip(names, headers, strict=True)]


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_REQUEST, detail)


def _read_lines(data: bytes | bytearray, start: int, scanned: int, what: str) -> list[bytes] | None:
    """The lines of the head that begins at `start`, None while it has no end."""
    end = data.find(_END, max(0, start, scanned - 3), MAX_HEAD)
    limit = MAX_HEAD if end < 0 else end + len(_END)
    if _broken(bytes(data[_unseen(data, scanned) : limit])):
        raise _refuse(f"the {what} head holds a control character or a line that does not end with CR LF")
    if end >= 0:
        return bytes(data[start:end]).split(b"\r\n")
    if len(data) >= MAX_HEAD:
        raise WireError(Reason.TOO_LARGE, f"the {what} head is larger than {MAX_HEAD} bytes")
    return None


def _size(lines: list[bytes]) -> int:
    """Bytes of a head of these lines, the final empty line included."""
    return sum(map(len, lines)) + 2 * len(lines) + 2


def _unseen(data: bytes | bytearray, scanned: int) -> int:
    """Where the scan goes on: a CR is looked at again together with what follows it."""
    return scanned - 1 if scanned and data[scanned - 1] == 0x0D else scanned


def _broken(part: bytes) -> bool:
    """Whether `part` holds a control character, an LF without CR, or a CR without LF that is not its last byte."""
    if part.translate(None, _HEAD_BYTES):
        return True
    pairs = part.count(b"\r\n")
    return part.count(b"\n") != pairs or part.count(b"\r") - part.endswith(b"\r") != pairs


def _fields(lines: list[bytes], what: str) -> tuple[list[Field], tuple[bytes, ...]]:
    """The fields in all lines but the first: with lower-case names, and the names as written."""
    if len(lines) - 1 > MAX_FIELDS:
        raise WireError(Reason.TOO_LARGE, f"the {what} head has more than {MAX_FIELDS} fields")
    fields = list(_parse_fields(lines[1:], answer=what == "answer"))
    return [(name.lower(), value) for name, value in fields], tuple(name for name, _ in fields)


def _parse_fields(lines: list[bytes], *, answer: bool) -> Iterator[Field]:
    for line in lines:
        name, colon, value = line.partition(b":")
        if answer:
            name = name.rstrip(b" \t")  # a proxy removes it from answers and refuses it in requests (section 5.1)
        if not colon or not name or name.translate(None, _TOKEN_BYTES):
            raise _refuse("a header line is not 'name: value' (a folded line, or a space before the colon?)")
        yield name, value.strip(b" \t")
