"""haproxy.cfg in a real HAProxy: what arrives at the gateways."""

import array
import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import termios
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy import ports
from gateway.front import _ID
from tests.haproxy.conftest import HAProxy, hang_up

CONFIG = Path(__file__).parents[2] / "haproxy" / "haproxy.cfg"
TLV_UNIQUE_ID = 0x05


def check(**env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["haproxy", "-c", "-f", str(CONFIG)],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_valid_as_it_is_and_without_warnings() -> None:
    done = check()
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_valid_where_only_failures_are_logged() -> None:
    done = check(VPNEXIT_HAPROXY_LOG_FAILED_ONLY="1")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_eight_gateways() -> None:
    done = check(**{f"VPNEXIT_HAPROXY_GATEWAY{n}": f"127.0.0.1:{13127 + n}" for n in range(1, 9)})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.parametrize("port", [3128, 1080, 10000, 10392, 10840, 10899])
async def test_gateway_learns_dialled_port_and_client(haproxy: Any, gateways: Any, port: int) -> None:
    reader, writer = await haproxy.dial(port, ("127.0.0.9", 0))
    client = writer.get_extra_info("sockname")
    writer.write(b"hello")
    header, inner, answer = await gateways.accepted()
    assert header.source == client
    assert header.target == (haproxy.address, port)
    assert header.tlvs[TLV_UNIQUE_ID]
    assert await inner.readexactly(5) == b"hello"
    answer.write(b"bye")
    assert await reader.readexactly(3) == b"bye"


async def test_its_numbers_where_an_address_is_given(haproxy: Any, gateways: Any) -> None:
    port = ports.free()
    haproxy.env["VPNEXIT_HAPROXY_METRICS"] = f"127.0.0.1:{port}"
    haproxy.stop()
    haproxy.start()
    await haproxy.wait_for("UP", "UP")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
        assert answer.status == 200
        assert 'haproxy_server_status{proxy="gateways",server="gateway1",state="UP"} 1' in text
        async with session.get(f"http://127.0.0.1:{port}/stats") as answer:
            assert answer.status == 404


async def test_unique_ids_differ(haproxy: Any, gateways: Any) -> None:
    seen = set()
    for _ in range(5):
        await haproxy.dial(3128)
        header, _, _ = await gateways.accepted()
        seen.add(header.tlvs[TLV_UNIQUE_ID])
    assert len(seen) == 5


async def test_one_id_for_the_gateway_and_the_log(haproxy: Any, gateways: Any) -> None:
    """Of a connection that went well, too."""
    reader, writer = await haproxy.dial(10392)
    header, _, answer = await gateways.accepted()
    name = header.tlvs[TLV_UNIQUE_ID].decode("ascii")
    assert _ID.fullmatch(name.encode())
    writer.close()
    answer.close()
    await reader.read()
    async with asyncio.timeout(20):
        while f" conn_id={name}\n" not in haproxy.log():
            await asyncio.sleep(0.02)
    (line,) = [line for line in haproxy.log().splitlines() if line.endswith(name)]
    assert f"{haproxy.address}:10392 gateways/gateway" in line


async def test_a_reader_of_the_log_that_is_stuck_holds_nobody_up(directory: Path, gateways: Any) -> None:
    """Lines are lost, then: a pipe holds 64 KiB, some 400 of them."""
    unread, stderr = os.pipe()
    server = HAProxy(directory, *gateways)
    try:
        server.start(stderr)
        await server.wait_for("UP", "UP")
        for _ in range(800):
            reader, writer = await server.dial(3128)
            _, inner, answer = await gateways.accepted()
            writer.write(b"hello")
            assert await asyncio.wait_for(inner.readexactly(5), 20) == b"hello"
            answer.close()
            assert await asyncio.wait_for(reader.read(), 20) == b""
            writer.close()
        pending = array.array("i", [0])
        fcntl.ioctl(unread, termios.FIONREAD, pending)
        assert pending[0] > 60_000  # else it was not stuck
    finally:
        await hang_up(server.writers)
        server.stop()
        os.close(unread)
        os.close(stderr)


async def test_gateway_that_is_not_ready_gets_nothing_new_and_keeps_its_tunnels(haproxy: Any, gateways: Any) -> None:
    reader, writer = await haproxy.dial(3128)
    _, inner, answer = await gateways.accepted()
    held = gateways[0] if gateways[0].port == answer.get_extra_info("sockname")[1] else gateways[1]
    other = gateways[1] if held is gateways[0] else gateways[0]

    held.ready = False
    await haproxy.wait_for(*("DOWN" if gateway is held else "UP" for gateway in gateways))
    for _ in range(6):
        _, new = await haproxy.dial(10392)
        (await asyncio.wait_for(other.accepted.get(), 20))[2].close()
        new.close()
    assert held.accepted.empty()

    writer.write(b"still here")
    assert await inner.readexactly(10) == b"still here"
    answer.write(b"yes")
    assert await reader.readexactly(3) == b"yes"

    held.ready = True
    await haproxy.wait_for("UP", "UP")


async def test_no_gateway_ready_closes_the_connection(haproxy: Any, gateways: Any) -> None:
    for gateway in gateways:
        gateway.ready = False
    await haproxy.wait_for("DOWN", "DOWN")
    reader, writer = await haproxy.dial(3128)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.close()


async def test_gateway_that_refuses_is_passed_over_before_a_check_notices(haproxy: Any, gateways: Any) -> None:
    gateways[0].greeting = gateways[1].greeting = b"hi"
    await haproxy.command("disable health gateways/gateway1")
    await haproxy.command("set server gateways/gateway1 addr 127.0.0.1 port 1")
    for _ in range(4):
        reader, writer = await haproxy.dial(3128)
        assert await asyncio.wait_for(reader.readexactly(2), 10) == b"hi"
        writer.close()


@pytest.mark.parametrize("first", ["client", "gateway"])
async def test_half_closed_tunnels_go_on(haproxy: Any, gateways: Any, first: str) -> None:
    reader, writer = await haproxy.dial(3128)
    _, inner, answer = await gateways.accepted()
    sides = [(reader, writer), (inner, answer)]
    (ended_reader, ended), (other_reader, other) = sides if first == "client" else reversed(sides)

    ended.write(b"last words")
    ended.write_eof()
    assert await asyncio.wait_for(other_reader.read(), 20) == b"last words"
    for _ in range(3):
        other.write(b"x" * 100_000)
        await asyncio.sleep(0.05)
    other.write_eof()
    assert len(await asyncio.wait_for(ended_reader.read(), 20)) == 300_000


async def test_reload_loses_neither_connections_nor_tunnels(haproxy: Any, gateways: Any) -> None:
    gateways[0].greeting = gateways[1].greeting = b"hi"
    long_reader, long_writer = await haproxy.dial(10392)
    _, long_inner, _ = await gateways.accepted()
    assert await long_reader.readexactly(2) == b"hi"
    workers = {await _worker(haproxy)}

    async def load() -> int:
        count = 0
        while len(workers) < 4:
            reader, writer = await haproxy.dial(3128)
            assert await reader.readexactly(2) == b"hi"
            writer.close()
            (await gateways.accepted())[2].close()
            count += 1
        return count

    async def reload() -> None:
        while len(workers) < 4:
            # HAProxy 2.6 drops the signal while it is still starting or reloading: ask again.
            haproxy.process.send_signal(signal.SIGUSR2)
            before = len(workers)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    while len(workers) == before:
                        await asyncio.sleep(0.05)
                        with contextlib.suppress(OSError):
                            workers.update({await _worker(haproxy)} - {""})

    async with asyncio.timeout(90):
        done, _ = await asyncio.gather(load(), reload())
    assert done > 20
    long_writer.write(b"still here")
    assert await long_inner.readexactly(10) == b"still here"


async def test_fits_into_20000_descriptors(haproxy: Any) -> None:
    info = dict(line.split(": ", 1) for line in (await haproxy.command("show info")).splitlines() if ": " in line)
    assert int(info["Maxconn"]) == 9500
    assert int(info["Maxsock"]) <= 20_000


async def _worker(haproxy: Any) -> str:
    info = await haproxy.command("show info")
    return "".join(line for line in info.splitlines() if line.startswith("Pid: "))
