"""What stands on the Internet behind one exit: web, WebSockets and SSH; each says which exit that is.

Run in the network namespace of a stand-in exit, beside its own origin. argv: node id, directory with the keys and the
repository. Serves HTTP on port 8080 and HTTPS on 443 (`/` the node's id,
or what was posted, `/ws` an echo that begins with it,
`/repository.git/` the directory) and SSH on port 22 (NODE in its environment).
Answers one line on stdout when ready.
"""

import asyncio
import os
import ssl
import sys
from pathlib import Path

from aiohttp import WSMsgType, web

from deploy.processes import tie_to_parent

SSHD = "/usr/sbin/sshd"  # it starts itself again for each connection, and wants its whole path


def site(node: str, repository: Path) -> web.Application:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text=f"{node}\n")

    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.send_str(node)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
        return ws

    async def back(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application(client_max_size=2**23)
    app.router.add_get("/", page)
    app.router.add_post("/", back)
    app.router.add_get("/ws", echo)
    app.router.add_static("/repository.git", repository)
    return app


async def main(node: str, directory: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(directory / "server.pem")
    runner = web.AppRunner(site(node, directory / node / "repository.git"), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 8080).start()
    await web.TCPSite(runner, "127.0.0.1", 443, ssl_context=tls).start()
    here = os.getpid()
    sshd = await asyncio.create_subprocess_exec(
        SSHD, "-D", "-e", "-f", directory / node / "sshd_config", preexec_fn=lambda: tie_to_parent(here)
    )
    print("ready", flush=True)
    await sshd.wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
