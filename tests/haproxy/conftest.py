"""A real HAProxy before gateways that the test plays."""

import asyncio
import contextlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from health.process import tie_to_parent

CONFIG = Path(__file__).parents[2] / "haproxy" / "haproxy.cfg"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # PROXY protocol, version 2
NOBODY = 65534


@dataclass(frozen=True)
class Header:
    """A PROXY v2 header: who called, what they dialled."""

    source: tuple[str, int]
    target: tuple[str, int]
    tlvs: dict[int, bytes]


async def hang_up(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()
    for writer in writers:
        with contextlib.suppress(OSError):
            await writer.wait_closed()


Accepted = tuple[Header, asyncio.StreamReader, asyncio.StreamWriter]


async def read_header(reader: asyncio.StreamReader) -> Header:
    signature, command, family, length = struct.unpack("!12sBBH", await reader.readexactly(16))
    assert (signature, command, family) == (SIGNATURE, 0x21, 0x11), "not PROXY v2, PROXY, TCP over IPv4"
    body = await reader.readexactly(length)
    source, target, source_port, target_port = struct.unpack("!4s4sHH", body[:12])
    tlvs, rest = {}, body[12:]
    while rest:
        kind, size = struct.unpack("!BH", rest[:3])
        tlvs[kind], rest = rest[3 : 3 + size], rest[3 + size :]
    return Header((str(IPv4Address(source)), source_port), (str(IPv4Address(target)), target_port), tlvs)


@dataclass
class Gateway:
    """Accepts connections from HAProxy and hands them to the test; answers GET /ready."""

    ready: bool = True
    port: int = 0
    ready_port: int = 0
    checks: int = 0
    greeting: bytes = b""
    accepted: "asyncio.Queue[Accepted]" = field(default_factory=asyncio.Queue)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self, stack: AsyncExitStack) -> None:
        proxy = await stack.enter_async_context(await asyncio.start_server(self._proxy, "127.0.0.1", 0))
        checks = await stack.enter_async_context(await asyncio.start_server(self._check, "127.0.0.1", 0))
        self.port, self.ready_port = proxy.sockets[0].getsockname()[1], checks.sockets[0].getsockname()[1]

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        header = await read_header(reader)
        writer.write(self.greeting)
        await self.accepted.put((header, reader, writer))

    async def _check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.checks += 1
            ready = self.ready and head.startswith(b"GET /ready HTTP/1.1\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if ready else b"HTTP/1.1 503 Draining\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # one that it gave up
        finally:
            writer.close()


class HAProxy:
    """The product's configuration in a HAProxy on a loopback address of its own, as an unprivileged user."""

    def __init__(self, directory: Path, *gateways: Gateway) -> None:
        self._directory = directory
        self.address = f"127.{77 + os.getpid() % 100}.{os.getpid() // 100 % 256}.1"
        self.socket = directory / "haproxy.sock"
        self.env = {
            "PATH": os.environ["PATH"],
            "VPNEXIT_HAPROXY_ADDRESS": self.address,
            "VPNEXIT_HAPROXY_SOCKET": str(self.socket),
        }
        for number, gateway in enumerate(gateways, 1):
            self.env[f"VPNEXIT_HAPROXY_GATEWAY{number}"] = f"127.0.0.1:{gateway.port}"
            self.env[f"VPNEXIT_HAPROXY_GATEWAY{number}_READY"] = str(gateway.ready_port)
        self.writers: list[asyncio.StreamWriter] = []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, stderr: int | None = None) -> None:
        """It logs into a file, which `log` reads, or to the descriptor `stderr`."""
        parent = os.getpid()
        config = self._directory / "haproxy.cfg"
        shutil.copy(CONFIG, config)  # the tree itself may be closed to other users
        self._directory.chmod(0o777)
        with (self._directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["haproxy", "-W", "-db", "-f", str(config)],
                env=self.env,
                cwd=self._directory,
                stderr=log if stderr is None else stderr,
                user=NOBODY if os.geteuid() == 0 else None,
                preexec_fn=lambda: tie_to_parent(parent),  # noqa: PLW1509
            )

    async def command(self, text: str) -> str:
        """Ask the runtime API."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            writer.write(text.encode() + b"\n")
            return (await reader.read()).decode()
        finally:
            writer.close()

    async def states(self) -> list[str]:
        """UP, DOWN … of each gateway."""
        rows = (await self.command("show stat -1 4 -1")).splitlines() or [""]
        columns = rows[0].lstrip("# ").split(",")
        return [row.split(",")[columns.index("status")].split()[0] for row in rows[1:] if row]

    async def wait_for(self, *states: str) -> None:
        deadline = time.monotonic() + 40
        seen: list[str] | str = "nothing"
        while seen != list(states):
            assert time.monotonic() < deadline, f"{seen} instead of {states}; {self.log()}"
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            await asyncio.sleep(0.02)
            try:
                seen = await self.states()
            except (OSError, ValueError) as error:  # ended meanwhile, or an answer cut off
                seen = str(error)

    async def dial(
        self, port: int, source: tuple[str, int] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(self.address, port, local_addr=source)
        self.writers.append(writer)
        return reader, writer

    def log(self) -> str:
        return (self._directory / "log").read_text()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            finally:
                self.process.kill()
                self.process.wait()


@pytest.fixture(scope="session", autouse=True)
def _haproxy_installed() -> None:
    if shutil.which("haproxy") is None:
        missing = "haproxy is missing: install Debian's haproxy"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


class Gateways(list[Gateway]):
    async def accepted(self) -> Accepted:
        """The next connection at any of them, within 20 s."""
        waiting = [asyncio.create_task(gateway.accepted.get()) for gateway in self]
        done, pending = await asyncio.wait(waiting, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        assert done, "nothing arrived"
        return done.pop().result()


@pytest.fixture
async def gateways() -> AsyncIterator[Gateways]:
    async with AsyncExitStack() as stack:
        both = Gateways([Gateway(), Gateway()])
        for gateway in both:
            await gateway.start(stack)
        yield both
        for gateway in both:
            await hang_up(gateway.writers)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory that an unprivileged HAProxy may use (pytest's own are closed to others)."""
    with tempfile.TemporaryDirectory(prefix="vx-haproxy-") as name:
        yield Path(name)


@pytest.fixture
async def haproxy(directory: Path, gateways: Gateways) -> AsyncIterator[HAProxy]:
    server = HAProxy(directory, *gateways)
    try:
        server.start()
        await server.wait_for("UP", "UP")
        yield server
    finally:
        await hang_up(server.writers)
        server.stop()
        sys.stdout.write(server.log())
