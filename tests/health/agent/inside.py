"""What needs an empty network namespace and its capabilities: functions that conftest's `inside` runs by name."""

import errno
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface

from health.agent import killswitch, nft, routes, tun
from health.agent.killswitch import Endpoint
from health.agent.protocol import AGENT_UID, VPN_UID

ENDPOINT = Endpoint(IPv4Address("198.18.77.11"), 51820, "udp")
RULES = killswitch.render(tun.DEVICE, ENDPOINT, VPN_UID)
UPLINK = """
link set lo up
link add eth0 address 02:00:00:00:00:01 type veth peer name peer address 02:00:00:00:00:02
address add 198.18.77.5/24 dev eth0
link set eth0 up
link set peer up
neigh add 198.18.77.11 lladdr 02:00:00:00:00:02 dev eth0
neigh add 198.18.77.1 lladdr 02:00:00:00:00:02 dev eth0
route add default via 198.18.77.1
"""


def lines(text: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True)


def as_user(uid: int, work: Callable[[], object]) -> object:
    """What `work` returns (JSON) when a child of user `uid` does it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writer, json.dumps(work()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as file:
        return json.loads(file.read())


def sent(address: str, port: int, kind: socket.SocketKind) -> str:
    """How a dial from this process ends at once: `sent`, `waiting`, or the error's name."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setblocking(False)
        number = sock.connect_ex((address, port))
        if number not in (0, errno.EINPROGRESS):
            return errno.errorcode[number]
        if kind is socket.SOCK_DGRAM:
            try:
                sock.send(b"x")
            except OSError as error:
                return errno.errorcode[error.errno or 0]
            return "sent"
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            failed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failed:
                return errno.errorcode[failed]
            time.sleep(0.005)
        return "waiting"


class Uplink:
    """Counts the IPv4 packets that arrive at the far end of the uplink."""

    def __init__(self) -> None:
        self.packets: list[bytes] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        self._socket.bind(("peer", 0x0800))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            frame, (_, _, kind, _, _) = self._socket.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
                self.packets.append(frame)


def guard_notices_changes() -> None:
    guard = nft.Guard(RULES)
    assert not guard.intact()
    guard.set()
    assert guard.intact()
    subprocess.run(["nft", "add", "table", "inet", "other"], check=True)
    assert guard.intact(), "a table of somebody else's cannot open ours"
    guard.set()
    assert guard.intact(), "loading anew replaces"
    subprocess.run(["nft", "insert", "rule", "inet", killswitch.TABLE, "output", "accept"], check=True)
    assert not guard.intact()
    guard.set()
    assert guard.intact()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert not guard.intact()


def changes_are_told_at_once() -> None:
    guard = nft.Guard(RULES)
    guard.set()
    guard.drain()
    assert not select.select([guard], [], [], 0.2)[0]
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert select.select([guard], [], [], 20)[0]
    guard.drain()
    assert not guard.intact()
    assert not select.select([guard], [], [], 0.2)[0]
    guard.close()


def guard_refuses_nonsense() -> None:
    guard = nft.Guard("table inet x { chain y { nonsense } }")
    try:
        guard.set()
    except nft.KillSwitchError as error:
        print(error)
    assert not guard.intact()


def only_the_vpn_user_reaches_the_endpoint() -> None:
    lines(UPLINK)
    nft.Guard(RULES).set()
    uplink = Uplink()
    assert as_user(VPN_UID, lambda: sent("198.18.77.11", 51820, socket.SOCK_DGRAM)) == "sent"
    deadline = time.monotonic() + 20
    while not uplink.packets and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(uplink.packets) == 1, uplink.packets
    refused = {
        "another user": as_user(AGENT_UID, lambda: sent("198.18.77.11", 51820, socket.SOCK_DGRAM)),
        "root": sent("198.18.77.11", 51820, socket.SOCK_DGRAM),
        "another port": as_user(VPN_UID, lambda: sent("198.18.77.11", 53, socket.SOCK_DGRAM)),
        "another protocol": as_user(VPN_UID, lambda: sent("198.18.77.11", 51820, socket.SOCK_STREAM)),
        "another address": as_user(VPN_UID, lambda: sent("198.18.77.1", 51820, socket.SOCK_DGRAM)),
        "the default route": as_user(AGENT_UID, lambda: sent("198.19.77.1", 80, socket.SOCK_STREAM)),
        "docker's resolver": as_user(AGENT_UID, lambda: sent("127.0.0.11", 53, socket.SOCK_STREAM)),
        "docker's resolver, udp": as_user(AGENT_UID, lambda: sent("127.0.0.11", 53, socket.SOCK_DGRAM)),
    }
    assert set(refused.values()) <= {"ENETUNREACH", "EPERM"}, refused
    time.sleep(0.2)
    assert len(uplink.packets) == 1, "something left"
    # The counter is worth something: without the switch it rises.
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    as_user(AGENT_UID, lambda: sent("198.18.77.11", 51820, socket.SOCK_DGRAM))
    deadline = time.monotonic() + 20
    while len(uplink.packets) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(uplink.packets) == 2


def ipv6_does_not_leave() -> None:
    frames = []
    lines("link set lo up\nlink add eth0 type veth peer name peer\nlink set peer up\n")
    nft.Guard(RULES).set()
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    capture.bind(("peer", 0x86DD))
    capture.settimeout(2)
    lines("address add 2001:2:0:77::5/64 dev eth0 nodad\nlink set eth0 up\n")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        for _ in range(5):
            try:
                sock.sendto(b"x", ("2001:2:0:77::9", 80))
            except OSError as error:
                print(error)
    try:
        while True:
            frame, (_, _, kind, _, _) = capture.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
                frames.append(frame)
    except TimeoutError:
        pass
    assert not frames, frames


def routes_leave_one_way_out() -> None:
    lines(UPLINK)
    for endpoint, gateway in ((IPv4Address("198.18.77.11"), None), (IPv4Address("198.19.0.11"), "198.18.77.1")):
        uplink = routes.find_uplink(endpoint)
        assert uplink == routes.Uplink("eth0", "198.18.77.5", 1500, gateway), uplink
    routes.apply(routes.close_uplink(uplink, endpoint, AGENT_UID))
    routes.forget_ipv6()
    shown = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.strip()
    assert shown == "198.19.0.11 via 198.18.77.1 dev eth0 src 198.18.77.5 onlink", shown
    assert as_user(VPN_UID, lambda: sent("198.19.0.11", 1, socket.SOCK_DGRAM)) == "sent"
    assert as_user(AGENT_UID, lambda: sent("198.19.0.11", 1, socket.SOCK_STREAM)) == "ENETUNREACH"
    assert as_user(AGENT_UID, lambda: sent("198.18.77.1", 1, socket.SOCK_STREAM)) == "ENETUNREACH"
    assert as_user(AGENT_UID, lambda: sent("127.0.0.11", 53, socket.SOCK_STREAM)) == "EHOSTUNREACH"
    device = tun.create()
    first, second = IPv4Interface("10.8.0.2/24"), IPv4Interface("10.8.0.9/24")
    routes.apply(routes.open_tunnel(tun.DEVICE, first, 1400))
    routes.apply(routes.move_tunnel(tun.DEVICE, first, second))
    shown = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    assert f"default dev {tun.DEVICE}" in shown, shown
    link = json.loads(
        subprocess.run(["ip", "-j", "address", "show", tun.DEVICE], capture_output=True, check=True).stdout
    )
    assert [info["local"] for info in link[0]["addr_info"] if info["family"] == "inet"] == ["10.8.0.9"]
    assert link[0]["mtu"] == 1400
    os.close(device)


def no_way_to_the_endpoint() -> None:
    lines("link set lo up\n")
    try:
        routes.find_uplink(IPv4Address("198.18.77.11"))
    except routes.NetworkError as error:
        print(error)


def a_device_lives_as_long_as_its_descriptor() -> None:
    device = tun.create()
    assert socket.if_nametoindex(tun.DEVICE)
    os.close(device)
    assert tun.DEVICE not in {name for _, name in socket.if_nameindex()}


def a_device_for_a_user_stays() -> None:
    before = os.stat("/dev/net/tun").st_mode
    try:
        tun.create_for(VPN_UID)
    finally:
        os.chmod("/dev/net/tun", before)
    shown = subprocess.run(["ip", "-j", "-d", "link", "show", tun.DEVICE], capture_output=True, check=True).stdout
    info = json.loads(shown)[0]["linkinfo"]["info_data"]
    assert (info["type"], info["pi"], info["persist"]) == ("tun", False, True), info
    assert str(info["user"]) == str(VPN_UID), info


if __name__ == "__main__":
    globals()[sys.argv[1]]()
