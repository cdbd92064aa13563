"""The origin every exit is judged by: it answers with the caller's address.

    /            the caller's address as text
    /json        what this server saw of the request: address, port, own address, scheme, method, header fields
    /echo        the request's body, as it comes
    /bytes?n=    n zero bytes (at most 1 GiB): what speed tests download
    /sink        takes the request's body and answers how long it was: where they upload to
    /slow?seconds=   the caller's address after that time (at most 300 s)

Plain TCP on port 7 is an echo (RFC 862) that ends its side only after the caller has ended its own. A datagram to port
7 is answered with the caller's address.
"""

import argparse
import asyncio
import contextlib
import ssl
import subprocess
from typing import cast

from aiohttp import web

MAX_BYTES = 1 << 30
MAX_SECONDS = 300.0
CHUNK = bytes(65536)


def _number(request: web.Request, name: str, top: float) -> float:
    try:
        value = float(request.query[name])
    except (KeyError, ValueError):
        raise web.HTTPBadRequest(text=f"{name}= must be a number\n") from None
    if not 0 <= value <= top:
        raise web.HTTPBadRequest(text=f"{name}= must be between 0 and {top:g}\n")
    return value


async def address(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.remote}\n", headers={"Cache-Control": "no-store"})


async def details(request: web.Request) -> web.Response:
    transport = request.transport
    peer = transport.get_extra_info("peername") if transport else None
    own = transport.get_extra_info("sockname") if transport else None
    return web.json_response(
        {
            "ip": request.remote,
            "port": peer[1] if peer else None,
            "local": own[0] if own else None,
            "scheme": request.scheme,
            "method": request.method,
            "target": request.raw_path,
            "headers": [[name, value] for name, value in request.headers.items()],
        }
    )


async def echo(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_length = request.content_length
    await response.prepare(request)
    async for chunk in request.content.iter_any():
        await response.write(chunk)
    await response.write_eof()
    return response


async def zeros(request: web.Request) -> web.StreamResponse:
    left = int(_number(request, "n", MAX_BYTES))
    response = web.StreamResponse()
    response.content_length = left
    await response.prepare(request)
    while left:
        await response.write(CHUNK[:left])
        left -= min(left, len(CHUNK))
    await response.write_eof()
    return response


async def sink(request: web.Request) -> web.Response:
    taken = 0
    async for chunk in request.content.iter_any():
        taken += len(chunk)
    return web.Response(text=f"{taken}\n")


async def slow(request: web.Request) -> web.Response:
    await asyncio.sleep(_number(request, "seconds", MAX_SECONDS))
    return await address(request)


def application() -> web.Application:
    """The HTTP side, the same for port 80 and 443."""
    app = web.Application()
    app.router.add_get("/", address)
    app.router.add_get("/json", details)
    app.router.add_get("/bytes", zeros)
    app.router.add_get("/slow", slow)
    app.router.add_post("/sink", sink)
    app.router.add_route("*", "/echo", echo)
    return app


async def tcp_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Datagrams(asyncio.DatagramProtocol):
    """Answers each datagram with the address it came from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Python 3.11's own transport is none of the class that asyncio promises.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(addr[0].encode(), addr)


async def serve(certificate: str, key: str) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    runner = web.AppRunner(application(), access_log=None, keepalive_timeout=75)
    await runner.setup()
    await web.TCPSite(runner, port=80, backlog=1024).start()
    await web.TCPSite(runner, port=443, ssl_context=tls, backlog=1024).start()
    server = await asyncio.start_server(tcp_echo, port=7, backlog=1024)
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, local_addr=("0.0.0.0", 7))  # noqa: S104
    print("serving", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--address", action="append", default=[], help="a further address of this host, with its mask")
    options = parser.parse_args()
    for extra in options.address:
        # A container that was stopped and started again has lost them, one that was paused has not.
        subprocess.run(["ip", "address", "replace", extra, "dev", "eth0"], check=True)
    asyncio.run(serve(options.certificate, options.key))


if __name__ == "__main__":
    main()
