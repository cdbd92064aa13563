"""Nothing leaves an exit but its tunnel. The judge is a packet counter on the uplink, outside of every exit.

Each test dials all the time while it counts: through the proxy, and with sockets that the agent hands over, at the VPN
endpoint itself, at Docker's resolver, over IPv6. `test_the_counters_see` takes the switch away and shows that the same
dials are counted then.
"""

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from health.agent_client import AgentClient, AgentError
from tests.lab.harness import Lab, traffic, wait_for

ORIGIN = "198.19.10.80"
ORIGIN_V6 = "2001:2:0:11::80"
DOCKER_RESOLVER = ("127.0.0.11", 53)
QUESTION = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09vxlab-jp1\x00\x00\x01\x00\x01"
COUNTRIES = ["jp", "us", "gb"]


class Dialler:
    """Handed-over sockets of one node, dialled at everything that must not be reached past the tunnel."""

    def __init__(self, lab: Lab, node: str) -> None:
        self.node = node
        self.directory = Path(lab.status["state_dir"]) / "nodes" / node
        told = json.loads((self.directory / "config" / "node.json").read_text())["endpoint"]
        self.endpoint = (str(told["address"]), int(told["port"]))
        self.outcomes: Counter[tuple[str, str]] = Counter()

    async def run(self) -> None:
        """Until cancelled, or until the agent is gone."""
        client = AgentClient(str(self.directory / "agent" / "agent.sock"))
        try:
            with contextlib.suppress(AgentError):
                await client.connect()
                while True:
                    await self.once(client)
                    await asyncio.sleep(0.01)
        finally:
            client.close()

    async def once(self, client: AgentClient) -> None:
        await asyncio.gather(*(self.dial(client, *forbidden) for forbidden in self.forbidden()))

    def forbidden(self) -> tuple[tuple[str, str, str, tuple[str, int]], ...]:
        return (
            ("origin", "inet", "stream", (ORIGIN, 80)),
            ("endpoint tcp", "inet", "stream", self.endpoint),
            ("endpoint udp", "inet", "dgram", self.endpoint),
            ("resolver udp", "inet", "dgram", DOCKER_RESOLVER),
            ("resolver tcp", "inet", "stream", DOCKER_RESOLVER),
            ("ipv6 tcp", "inet6", "stream", (ORIGIN_V6, 80)),
            ("ipv6 udp", "inet6", "dgram", (ORIGIN_V6, 53)),
        )

    async def dial(self, client: AgentClient, what: str, family: str, kind: str, address: tuple[str, int]) -> None:
        _, sockets = await client.sockets(1, family=family, kind=kind)
        self.outcomes[what, await _try(sockets[0], address)] += 1

    def reached(self) -> set[str]:
        return {what for what, outcome in self.outcomes if outcome in ("connected", "answered")}


async def _try(sock: socket.SocketType, address: tuple[str, int]) -> str:
    loop = asyncio.get_running_loop()
    with contextlib.closing(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        try:
            async with asyncio.timeout(0.3):
                await loop.sock_connect(sock, address)
                if sock.type != socket.SOCK_DGRAM:
                    return "connected"
                await loop.sock_sendall(sock, QUESTION)
                await loop.sock_recv(sock, 512)
                return "answered"
        except TimeoutError:
            return "silence"
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")


@asynccontextmanager
async def dialling(lab: Lab, *countries: str) -> AsyncIterator[list[Dialler]]:
    """Traffic through the proxy and dials at the forbidden, by every node of `countries`, for the length of the block.

    The list is filled at the end of the block.
    """
    diallers: dict[str, Dialler] = {}
    running: list[asyncio.Task[None]] = []
    nodes = Path(lab.status["state_dir"]) / "nodes"

    def ready() -> bool:
        return {node[:2] for node, dialler in diallers.items() if dialler.outcomes} >= set(countries)

    async def follow() -> None:
        while True:
            for node in os.listdir(nodes):
                if node[:2] in countries and node not in diallers and (nodes / node / "agent/agent.sock").exists():
                    diallers[node] = Dialler(lab, node)
                    running.append(asyncio.create_task(diallers[node].run()))
            await asyncio.sleep(0.05)

    async with AsyncExitStack() as stack:
        for country in countries:
            await stack.enter_async_context(traffic(lab, country, 1))
        following = asyncio.create_task(follow())
        found: list[Dialler] = []
        try:
            await asyncio.to_thread(wait_for, ready, 20, "dials")
            yield found
        finally:
            following.cancel()
            for task in running:
                task.cancel()
            await asyncio.gather(following, *running, return_exceptions=True)
            found += diallers.values()


async def keeps_tight(lab: Lab, break_it: Callable[[str], None], seconds: float) -> list[Dialler]:
    """Break one node of each country while everything dials, and see that nothing left but tunnels."""
    before = await asyncio.to_thread(lab.leaks)
    async with dialling(lab, *COUNTRIES) as diallers:
        await asyncio.sleep(0.5)
        await asyncio.gather(*(asyncio.to_thread(break_it, lab.nodes(country)[0]) for country in COUNTRIES))
        await asyncio.sleep(seconds)
    after = await asyncio.to_thread(lab.leaks)
    assert after["tunnel"] > before["tunnel"]
    assert (after["leak_v4"] - before["leak_v4"], after["leak_v6"] - before["leak_v6"]) == (0, 0)
    assert {dialler.node[:2] for dialler in diallers} == set(COUNTRIES)
    for dialler in diallers:
        assert dialler.reached() <= {"origin"}, (dialler.node, dialler.outcomes)
    return diallers


async def test_in_quiet_times(lab: Lab) -> None:
    diallers = await keeps_tight(lab, lambda node: None, 2)
    for dialler in diallers:
        assert ("origin", "connected") in dialler.outcomes
        # Refused at once, all of them. Where the machine stands still for a moment, one round of dials comes too late.
        for what in {what for what, _ in dialler.outcomes} - {"origin"}:
            dials = sum(count for (of, _), count in dialler.outcomes.items() if of == what)
            assert dialler.outcomes[what, "silence"] <= dials / 10, dialler.outcomes


async def test_while_the_vpn_program_is_killed(lab: Lab) -> None:
    def kill(node: str) -> None:
        for line in lab.docker("top", f"vpnexit-{node}", "-eo", "pid,comm").splitlines()[1:]:
            pid, name = line.split(None, 1)
            if name.strip() in ("openvpn", "wireguard-go"):
                os.kill(int(pid), signal.SIGKILL)
                return
        raise AssertionError("no VPN program found")

    await keeps_tight(lab, kill, 5)


async def test_while_the_tunnel_device_is_deleted(lab: Lab) -> None:
    def delete(node: str) -> None:
        device = lab.in_namespace(node, "ip", "-o", "link", "show", "type", "tun").stdout.split(": ")[1]
        assert lab.in_namespace(node, "ip", "link", "delete", device).returncode == 0

    await keeps_tight(lab, delete, 5)


async def test_while_routes_are_injected(lab: Lab) -> None:
    """TunnelVision and TunnelCrack: more specific routes that point past the tunnel."""
    injected = []

    def inject(node: str) -> None:
        injected.append(node)
        for route in ("0.0.0.0/1", "128.0.0.0/1", f"{ORIGIN}/32"):
            lab.in_namespace(node, "ip", "route", "replace", route, "via", "198.18.10.1", "dev", "eth0", "onlink")
        lab.in_namespace(node, "ip", "-6", "route", "replace", "default", "dev", "eth0")

    await keeps_tight(lab, inject, 3)
    for node in injected:
        with contextlib.suppress(AssertionError):  # control may have replaced it by now
            lab.docker("kill", f"vpnexit-{node}")


async def test_while_containers_stop_start_and_are_killed(lab: Lab) -> None:
    def stop_or_kill(node: str) -> None:
        if node.startswith("gb"):
            lab.docker("kill", f"vpnexit-{node}")
        else:
            lab.docker("stop", "--time", "5", f"vpnexit-{node}")

    await keeps_tight(lab, stop_or_kill, 8)


def test_a_connect_to_the_vpn_endpoint_itself_is_refused(lab: Lab) -> None:
    for node in lab.nodes("gb"):
        host, port = Dialler(lab, node).endpoint
        run = lab.curl(lab.proxy("gb"), f"http://{host}:{port}/", "-p", "-w", "%{http_connect}", timeout=5)
        assert run.stdout.endswith(("502", "503")), run.stdout


async def test_the_counters_see(lab: Lab) -> None:
    """With the switch taken away the same dials are counted; once PID 1 may look again, it ends the container."""
    node = lab.nodes("us")[0]
    first = int(lab.docker("inspect", "--format", "{{.State.Pid}}", f"vpnexit-{node}"))
    before = lab.leaks()
    async with dialling(lab, "us") as diallers:
        for command in (
            "ip rule flush",
            "ip rule add pref 32766 lookup main",
            "ip route flush table local 127.0.0.11/32",
            "ip route replace 128.0.0.0/1 via 198.18.10.1 dev eth0 onlink",
            f"ip -6 neigh replace {ORIGIN_V6} lladdr 02:42:00:00:00:01 dev eth0",
            "ip -6 route replace default dev eth0",
        ):
            assert lab.in_namespace(node, *command.split()).returncode == 0, command
        os.kill(first, signal.SIGSTOP)
        try:
            lab.in_namespace(node, "nft", "delete", "table", "inet", "vpnexit")
            await asyncio.to_thread(
                wait_for,
                lambda: (now := lab.leaks())["leak_v4"] > before["leak_v4"] and now["leak_v6"] > before["leak_v6"],
                20,
                "the counters rise",
            )
        finally:
            os.kill(first, signal.SIGCONT)
        await asyncio.to_thread(wait_for, lambda: node not in lab.nodes("us"), 5 * 2, "the node is taken out")
    reached = next(dialler for dialler in diallers if dialler.node == node).reached()
    assert "resolver udp" in reached, reached
    await asyncio.to_thread(
        wait_for, lambda: "kill switch" in lab.api("GET", f"/api/nodes/{node}")["reason"], 20, "the reason is told"
    )
