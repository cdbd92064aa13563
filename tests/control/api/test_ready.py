"""Prepared answers are whole HTTP answers, on the wire, to clients of every kind."""

import asyncio
import re
from typing import Any

from tests.control.api.conftest import ADMIN


async def said(port: int, request: str, count: int = 1) -> bytes:
    """What the server says to raw bytes, until `count` answers were seen or it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.replace("\n", "\r\n").encode())
    found = b""
    async with asyncio.timeout(15):
        while found.count(b"HTTP/1.1 ") < count or not found.endswith(b"]"):
            more = await reader.read(65536)
            found += more
            if not more:
                break
    writer.close()
    return found


LOGIN = f"Host: x\nAuthorization: {ADMIN['Authorization']}\n"


async def test_what_is_on_the_wire(api: Any) -> None:
    head, _, body = (await said(api.port, f"GET /api/nodes HTTP/1.1\n{LOGIN}X-Request-Id: abc\n\n")).partition(
        b"\r\n\r\n"
    )
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.1 200 OK"
    fields = dict(line.split(": ", 1) for line in lines[1:])
    assert len(fields) == len(lines) - 1, "no field twice"
    assert body == b"[]"
    assert (fields["Content-Length"], fields["Content-Type"]) == ("2", "application/json; charset=utf-8")
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields["Date"])
    assert (fields["X-Request-Id"], fields["Server"], fields["Cache-Control"]) == ("abc", "vpnexit", "no-cache")


async def test_answers_come_in_order_on_one_connection(api: Any) -> None:
    asked = "".join(f"GET /api/nodes HTTP/1.1\n{LOGIN}X-Request-Id: id{number}\n\n" for number in range(5))
    found = await said(api.port, asked, 5)
    assert re.findall(rb"X-Request-Id: (\w+)", found) == [b"id0", b"id1", b"id2", b"id3", b"id4"]


async def test_old_clients_and_those_that_close(api: Any) -> None:
    for request in (f"GET /api/nodes HTTP/1.0\n{LOGIN}\n", f"GET /api/nodes HTTP/1.1\n{LOGIN}Connection: close\n\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        writer.write(request.replace("\n", "\r\n").encode())
        async with asyncio.timeout(15):
            found = await reader.read()  # to its end: the server closes
        assert found.startswith(b"HTTP/1.")
        assert found.endswith(b"\r\n\r\n[]")
        writer.close()
