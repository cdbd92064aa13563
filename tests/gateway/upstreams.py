"""Real proxies to be used as upstreams, scripted ones that misbehave, and an origin; all on loopback, on free ports."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from deploy import ports
from tests.gateway.harness import wait_for

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
USER, PASSWORD = "carrier", "p-w.d"  # the characters that tinyproxy.conf(5) can hold
LOGIN = f"{USER}@"


@contextlib.contextmanager
def running(command: list[str], port: int, host: str = "127.0.0.1") -> Iterator[str]:
    """`host:port` of a program that listens there, while it runs."""
    _need(command[0])
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: _accepts(process, host, port), what=command[0])
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its children
        process.wait(10)


@contextlib.contextmanager
def microsocks(*, login: bool = False, host: str = "127.0.0.1", dials_from: str = "") -> Iterator[str]:
    port = ports.free()
    asks = ["-u", USER, "-P", PASSWORD] if login else []
    asks += ["-b", dials_from] if dials_from else []
    with running(["microsocks", "-i", host, "-p", str(port), *asks], port, host) as place:
        yield f"socks5://{LOGIN if login else ''}{place}"


@contextlib.contextmanager
def tinyproxy(*, login: bool = False) -> Iterator[str]:
    port = ports.free()
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 50"]
    lines += [f"BasicAuth {USER} {PASSWORD}"] if login else []
    with _directory() as directory:
        file = directory / "tinyproxy.conf"
        file.write_text("\n".join(lines) + "\n")
        with running(["tinyproxy", "-d", "-c", str(file)], port) as place:
            yield f"http://{LOGIN if login else ''}{place}"


@contextlib.contextmanager
def squid(**names: str) -> Iterator[str]:
    """`names` are what it resolves besides the DNS."""
    port = ports.free()
    with _directory() as directory:
        (directory / "hosts").write_text("".join(f"{address} {name}.test\n" for name, address in names.items()))
        (directory / "squid.conf").write_text(
            f"http_port 127.0.0.1:{port}\nhttp_access allow all\naccess_log none\ncache_log /dev/null\n"
            f"pid_filename none\ncoredump_dir {directory}\nhosts_file {directory}/hosts\npinger_enable off\n"
            "cache deny all\nnetdb_filename none\nshutdown_lifetime 0 seconds\n"
        )
        # Its shared memory is named after -n: two squids on one machine would collide.
        command = ["squid", "-N", "-n", f"vx{port}", "-f", str(directory / "squid.conf")]
        try:
            with running(command, port) as place:
                yield f"http://{place}"
        finally:
            for left in Path("/dev/shm").glob(f"vx{port}-*"):
                left.unlink()


@contextlib.contextmanager
def dante() -> Iterator[str]:
    """A SOCKS5 server that carries datagrams, too."""
    port = ports.free()
    with _directory() as directory:
        file = directory / "danted.conf"
        file.write_text(
            f"logoutput: /dev/null\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\n"
            "socksmethod: none\nclient pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n"
            "socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n"
        )
        with running(["danted", "-f", str(file)], port) as place:
            yield f"socks5://{place}"


class Scripted:
    """An upstream that follows `talk`; `seen` is what each connection sent."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.seen: list[bytes] = []
        self.place = ""

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator["Scripted"]:
        async with serving(self._serve) as port:
            self.place = f"127.0.0.1:{port}"
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(self.seen)
        self.seen.append(b"")
        read = reader.read

        async def noted(count: int = -1) -> bytes:
            data = await read(count)
            self.seen[at] += data
            return data

        reader.read = noted  # type: ignore[method-assign]
        await self._talk(reader, writer)


@contextlib.asynccontextmanager
async def serving(talk: Talk) -> AsyncIterator[int]:
    """The port of a server on loopback that follows `talk`; connections still open at the end are cut."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def banner_and_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An origin that speaks first."""
    writer.write(b"220 ready\r\n")
    while data := await reader.read(65536):
        writer.write(data)


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP origin that shows the request."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(head), head))


def saying(*answers: bytes, then_close: bool = True) -> Talk:
    """One answer to each read, then the end, or silence."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
        if not then_close:
            await asyncio.sleep(60)

    return talk


def put_password(directory: Path, url: str, password: str = PASSWORD) -> None:
    """The file that holds the password for `url`."""
    (directory / url.partition("://")[2]).write_text(password + "\n")


def _need(program: str) -> None:
    if shutil.which(program) is None:
        missing = f"{program} is missing: as root on Debian `make test` installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    # Not pytest's: squid reads its files under a user of its own.
    directory = Path(tempfile.mkdtemp(prefix="vx-upstream-"))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _accepts(process: subprocess.Popen[bytes], host: str, port: int) -> bool:
    assert process.poll() is None, f"{process.args!r} ended"
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
