"""OpenVPN as PID 1 runs it: under its own user, without a capability, watched through its management socket."""

import contextlib
import os
import selectors
import socket
import struct
from ipaddress import IPv4Interface
from pathlib import Path

from health.agent import nodefile, openvpn_config, protocol, routes, spawn, tun
from health.agent.openvpn_management import Management, ManagementError
from health.agent.program import Failure, Link

_MTU = 1500
_MANAGEMENT = "/run/openvpn.sock"
_PEER = struct.Struct("3i")


class OpenVpn:
    """The VPN program of an `openvpn_udp` or `openvpn_tcp` node."""

    def __init__(self, node: nodefile.NodeFile, directory: Path) -> None:
        self._node = node
        self._directory = directory
        self._talk: socket.socket | None = None
        self._management = Management()
        self._address: IPv4Interface | None = None
        self.link = Link(up=False, reason="starting OpenVPN", dns=node.dns)
        self.failure: Failure | None = None

    def start(self, selector: selectors.BaseSelector, output: int) -> int:
        """Check the configuration and start the program; its process id. Raises Failure, OSError."""
        text = spawn.read_as(self._directory / openvpn_config.CONFIG, protocol.VPN_UID)
        if text is None:
            raise Failure(protocol.Ended.CONFIG, f"{openvpn_config.CONFIG} cannot be read by user {protocol.VPN_UID}")
        why = openvpn_config.refused(text)
        if why:
            raise Failure(protocol.Ended.CONFIG, why)
        tun.create_for(protocol.VPN_UID)
        listener = _listen()
        selector.register(listener, selectors.EVENT_READ, lambda: self._accept(selector, listener))
        return self._spawn(output)

    def tick(self) -> None:
        """OpenVPN speaks by itself; there is nothing to ask."""

    def stop(self) -> bool:
        """Let it tell the server that it leaves, which frees the account's session at once."""
        if self._talk is None:
            return False
        with contextlib.suppress(OSError):
            self._talk.send(b"signal SIGTERM\n")
            return True
        return False

    def _spawn(self, output: int) -> int:
        credentials = (self._directory / openvpn_config.CREDENTIALS).exists()
        return spawn.spawn(
            openvpn_config.command(self._node.protocol, str(self._directory), _MANAGEMENT, credentials=credentials),
            user=protocol.VPN_UID,
            group=protocol.VPN_UID,
            output=output,
        )

    def _accept(self, selector: selectors.BaseSelector, listener: socket.socket) -> None:
        talk, _ = listener.accept()
        _, uid, _ = _PEER.unpack(talk.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if uid != protocol.VPN_UID:
            talk.close()
            return
        selector.unregister(listener)
        listener.close()
        talk.setblocking(False)
        self._talk = talk
        selector.register(talk, selectors.EVENT_READ, lambda: self._readable(selector, talk))

    def _readable(self, selector: selectors.BaseSelector, talk: socket.socket) -> None:
        try:
            data = talk.recv(65536)
            reply = self._management.feed(data)
            if reply:
                talk.send(reply)
        except BlockingIOError:
            return
        except ManagementError as error:
            self.failure = Failure(protocol.Ended.VPN_ENDED, f"OpenVPN's management connection broke: {error}")
            data = b""
        except OSError:
            data = b""
        if not data:
            # OpenVPN ends by itself when this conversation does.
            selector.unregister(talk)
            talk.close()
            self._talk = None
            self.link.up = False
            return
        self._follow()

    def _follow(self) -> None:
        state = self._management.state
        if state.auth_failed is not None:
            self.failure = Failure(
                protocol.Ended.AUTH_FAILED, f"the VPN server refused the credentials: {state.auth_failed}"
            )
        if state.connected and state.address is not None:
            self._move_to(state.address)
        detail = f" ({state.detail})" if state.detail and not state.connected else ""
        self.link = Link(up=state.connected, reason=f"OpenVPN {state.name}{detail}", dns=state.dns or self._node.dns)

    def _move_to(self, address: IPv4Interface) -> None:
        if self._address is None:
            routes.apply(routes.open_tunnel(tun.DEVICE, address, _MTU))
        elif address != self._address:
            routes.apply(routes.move_tunnel(tun.DEVICE, self._address, address))
        self._address = address


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.bind(_MANAGEMENT)
    # Who connects is checked by user id, so the mode only has to let OpenVPN's user in.
    os.chmod(_MANAGEMENT, 0o666)  # noqa: S103
    listener.listen(1)
    return listener
