"""Probes against real listeners."""

import asyncio
from pathlib import Path

import pytest

from deploy import ports
from deploy.probes import Probe, http_ok, tcp_open, unix_open


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.read(4096)
    status = b"200 OK" if head.startswith(b"GET /ready ") else b"503 No"
    if head:
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
    writer.close()


async def _refused(probe: Probe) -> bool:
    with pytest.raises(OSError, match=r"refused|No such file|Connect call failed"):
        await probe()
    return True


async def test_tcp_and_http() -> None:
    port = ports.free()
    assert await _refused(tcp_open("127.0.0.1", port))
    assert await _refused(http_ok("127.0.0.1", port, "/ready"))
    async with await asyncio.start_server(_answer, "127.0.0.1", port):
        assert await tcp_open("127.0.0.1", port)()
        assert await http_ok("127.0.0.1", port, "/ready")()
        assert not await http_ok("127.0.0.1", port, "/other")()


async def test_unix(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert await _refused(unix_open(path))
    async with await asyncio.start_unix_server(_answer, path):
        assert await unix_open(path)()
