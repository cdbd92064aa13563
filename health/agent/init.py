"""PID 1 of an exit container: the kill switch first, then the VPN program and the agent, each under its own user.

It has three capabilities (NET_ADMIN, SETUID, SETGID) and gives none of them on. When the VPN program or the agent
ends, it ends, and with it the container: nobody is left who could use half an exit.
"""

import fcntl
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from health.agent import killswitch, log, nft, nodefile, protocol, routes, spawn, tun
from health.agent.openvpn import OpenVpn
from health.agent.program import Failure, Program
from health.agent.protocol import Ended
from health.agent.report import Report
from health.agent.wake import Wake
from health.agent.wireguard import WireGuard

CONFIG_DIRECTORY = Path("/etc/vpnexit")
AGENT_DIRECTORY = Path("/run/vpnexit/agent")
_TICK = 1.0
_FAREWELL = 0.5
_VPN, _AGENT = "VPN program", "agent"
# Room for some ten reports: an agent that has not read for that long is not serving anybody.
_PIPE_SIZE = 8192


class Init:
    """The running container."""

    def __init__(self, node: nodefile.NodeFile, program: Program, guard: nft.Guard, wake: Wake) -> None:
        self._node = node
        self._program = program
        self._guard = guard
        self._selector = selectors.DefaultSelector()
        self._wake = wake
        self._output = log.Output()
        self._selector.register(guard, selectors.EVENT_READ, guard.drain)
        self._selector.register(wake.reader, selectors.EVENT_READ, wake.note)
        self._selector.register(self._output.reader, selectors.EVENT_READ, self._output.forward)
        self._children: dict[int, str] = {}
        self._ended: Failure | None = None
        self._last_report = b""

    def run(self) -> Failure:
        """Start both programs and watch them; how it ended. Raises Failure, OSError, routes.NetworkError."""
        self._children[self._program.start(self._selector, self._output.writer)] = _VPN
        self._device = socket.if_nametoindex(tun.DEVICE)
        pid, self._pipe = _start_agent(self._output.writer)
        self._children[pid] = _AGENT
        next_tick = time.monotonic()
        while self._ended is None:
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK
                self._tick()
            self._wait(next_tick)
            self._report(force=False)
        return self._ended

    def farewell(self) -> None:
        """Let the VPN program say goodbye, which it does at once; then pass on what was written last."""
        if self._program.stop():
            deadline = time.monotonic() + _FAREWELL
            while _VPN in self._children.values() and time.monotonic() < deadline:
                self._wait(deadline)
        self._output.forward()

    def _wait(self, until: float) -> None:
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            handler: Callable[[], None] = key.data
            handler()
        # After the handlers: what a program said before it ended comes first.
        if self._wake.noted():
            self._reap()
        if self._wake.stopped:
            self._end(Failure(Ended.STOPPED, "asked to stop"))

    def _tick(self) -> None:
        self._program.tick()
        self._report(force=True)
        if not _same_device(self._device):
            self._end(Failure(Ended.TUNNEL_GONE, "the tunnel device is gone"))

    def _report(self, *, force: bool) -> None:
        link = self._program.link
        kill_switch = self._guard.intact()
        if not kill_switch:
            self._shut()
        line = Report(
            node=self._node.node,
            probe_name=self._node.probe_name,
            link=link.up,
            reason=link.reason,
            dns=link.dns,
            kill_switch=kill_switch,
            handshake_age_s=link.handshake_age_s,
            targets=self._node.targets,
            insights_url=self._node.insights_url,
        ).line()
        if not force and line == self._last_report:
            return
        self._last_report = line
        try:
            os.write(self._pipe, line)
        except BlockingIOError:
            self._end(Failure(Ended.AGENT_ENDED, "the agent does not read"))
        except OSError:
            self._end(Failure(Ended.AGENT_ENDED, "the agent ended"))

    def _shut(self) -> None:
        # Sockets that were handed over live on for a moment after the container: the switch is put back for them.
        try:
            self._guard.set()
        except nft.KillSwitchError as error:
            log.write("kill switch", level="error", reason=str(error))
        self._end(Failure(Ended.KILL_SWITCH, "the kill switch is not as it was set"))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            who = self._children.pop(pid, None)
            if who == _VPN:
                self._end(self._program.failure or Failure(Ended.VPN_ENDED, f"the VPN program ended {_how(status)}"))
            elif who == _AGENT:
                self._end(Failure(Ended.AGENT_ENDED, f"the agent ended {_how(status)}"))

    def _end(self, failure: Failure) -> None:
        if self._ended is None:
            self._ended = failure


def main() -> None:
    """Run as PID 1; the exit status is a `protocol.Ended`."""
    log.never_wait()
    failure = _run(Wake())
    level = "info" if failure.ended is Ended.STOPPED else "error"
    log.write("ended", level=level, code=int(failure.ended), status=failure.ended.name.lower(), reason=failure.reason)
    sys.exit(int(failure.ended))


def _run(wake: Wake) -> Failure:
    try:
        init = _prepare(wake)
        try:
            return init.run()
        finally:
            init.farewell()
    except Failure as error:
        return error
    except nodefile.ConfigError as error:
        return Failure(Ended.CONFIG, str(error))
    except nft.KillSwitchError as error:
        return Failure(Ended.KILL_SWITCH, str(error))
    except (routes.NetworkError, OSError, subprocess.SubprocessError) as error:
        return Failure(Ended.NETWORK, str(error))


def _prepare(wake: Wake) -> Init:
    node = nodefile.read(CONFIG_DIRECTORY / "node.json")
    guard = nft.Guard(killswitch.render(tun.DEVICE, node.endpoint, protocol.VPN_UID))
    guard.set()
    uplink = routes.find_uplink(node.endpoint.address)
    routes.apply(routes.close_uplink(uplink, node.endpoint.address, protocol.AGENT_UID))
    routes.forget_ipv6()
    log.write("kill switch set", node=node.node, endpoint=str(node.endpoint.address), uplink=uplink.device)
    program: Program
    if node.protocol == nodefile.WIREGUARD:
        program = WireGuard(node, CONFIG_DIRECTORY / "wg.key", uplink.mtu)
    else:
        program = OpenVpn(node, CONFIG_DIRECTORY)
    return Init(node, program, guard, wake)


def _start_agent(output: int) -> tuple[int, int]:
    # With the directory's group the agent's socket gets that group, and its members may connect.
    group = AGENT_DIRECTORY.stat().st_gid or protocol.AGENT_UID
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    try:
        pid = spawn.spawn(
            [sys.executable, "-P", "-m", "health.agent.agent", str(AGENT_DIRECTORY / protocol.SOCKET_NAME)],
            user=protocol.AGENT_UID,
            group=group,
            output=output,
            stdin=reader,
        )
    finally:
        os.close(reader)
    return pid, writer


def _same_device(index: int) -> bool:
    try:
        return socket.if_nametoindex(tun.DEVICE) == index
    except OSError:
        return False


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"with status {code}" if code >= 0 else f"by signal {-code}"


if __name__ == "__main__":
    main()
