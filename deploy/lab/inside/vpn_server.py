"""PID 1 of a lab VPN server: WireGuard or OpenVPN, its NAT to the egress address, and the DNS server inside the tunnel.

Reads `/lab/server.json`:

    {"protocol": "wireguard" | "openvpn_udp" | "openvpn_tcp", "entry": "198.18.10.11", "mac": "02:42:…",
     "egress": "198.19.10.11", "wan": "198.19.10.0/24", "gateway": "10.5.0.1/16", "dns": ["103.86.96.100"],
     "answers": {"name": ["address", ...]}, "rebinding": "zone"}

and, beside it, `wg0.conf` (WireGuard) or `openvpn.conf` (OpenVPN). The container ends when any of its programs does, so
that a half-dead server never passes for a living one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from . import rebinding

LAB = Path("/lab")
RUN = Path("/run/lab")
INTERFACES = Path("/sys/class/net")
WIREGUARD_SOCKETS = Path("/var/run/wireguard")
TUNNELS = {"wireguard": "wg0", "openvpn_udp": "tun0", "openvpn_tcp": "tun0"}
START_TIMEOUT_S = 10.0

NAT = """
table ip lab {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip daddr {wan} oifname != "{tunnel}" snat to {egress}
    oifname != {{ "{tunnel}", "lo" }} masquerade
  }}
  chain forward {{
    type filter hook forward priority filter;
    tcp flags syn tcp option maxseg size set rt mtu
  }}
}}
"""


def dnsmasq_config(settings: dict[str, Any]) -> str:
    """The configuration of a DNS server that knows the given names and nothing else (NXDOMAIN).

    Questions about the zone `rebinding` are passed on to the server of that name.
    """
    lines = ["no-resolv", "no-hosts", "no-poll", "local=/#/", "local-ttl=5", "bind-dynamic", "port=53"]
    lines += [f"listen-address={address}" for address in settings["dns"]]
    lines.append("server=/{}/{}#{}".format(settings["rebinding"], *rebinding.ADDRESS))
    # One address a line: of several IPv4 addresses in one, dnsmasq takes the last.
    for name, addresses in sorted(settings["answers"].items()):
        lines += [f"host-record={name},{address}" for address in addresses]
    return "\n".join(lines) + "\n"


def run(*command: str, stdin: str | None = None) -> None:
    subprocess.run(command, input=stdin, text=True, check=True)


def wait_for(path: Path) -> None:
    """Return once the path is there. Raises TimeoutError after 10 s."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.05)


def interface_with(address: str) -> str:
    """The name of the interface that has `address`. Raises ValueError if none has."""
    shown = subprocess.run(["ip", "-json", "address"], capture_output=True, check=True).stdout
    for link in json.loads(shown):
        if address in {info["local"] for info in link["addr_info"]}:
            return str(link["ifname"])
    raise ValueError(f"no interface has {address}")


def start_tunnel(settings: dict[str, Any]) -> subprocess.Popen[bytes]:
    """Start the VPN program and return when its interface stands."""
    name = TUNNELS[settings["protocol"]]
    if name == "tun0":
        program = subprocess.Popen(["openvpn", "--config", str(LAB / "openvpn.conf")])
        wait_for(INTERFACES / name)
        return program
    # A container that was stopped and started again still has the old socket, which nobody listens on any more.
    (WIREGUARD_SOCKETS / f"{name}.sock").unlink(missing_ok=True)
    program = subprocess.Popen(["wireguard-go", "-f", name])
    # The interface comes first, and the socket that `wg` speaks to a little later.
    wait_for(WIREGUARD_SOCKETS / f"{name}.sock")
    run("wg", "setconf", name, str(LAB / "wg0.conf"))
    run("ip", "address", "add", settings["gateway"], "dev", name)
    run("ip", "link", "set", name, "mtu", "1420", "up")
    return program


def start(settings: dict[str, Any]) -> list[subprocess.Popen[bytes]]:
    """Everything this server consists of, started."""
    RUN.mkdir(parents=True, exist_ok=True)
    # The leak counters tell servers from exits by this; Docker cannot set it on every network in every version.
    run("ip", "link", "set", interface_with(settings["entry"]), "address", settings["mac"])
    # Nothing beyond the lab's two networks is reachable: a target outside is refused at once.
    subprocess.run(["ip", "route", "del", "default"], check=False)
    run("ip", "route", "add", "unreachable", "default")
    for address in settings["dns"]:
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    wan = settings["wan"]
    run("nft", "-f", "-", stdin=NAT.format(wan=wan, egress=settings["egress"], tunnel=TUNNELS[settings["protocol"]]))
    config = RUN / "dnsmasq.conf"
    config.write_text(dnsmasq_config(settings))
    dns = subprocess.Popen(["dnsmasq", "--keep-in-foreground", "--log-facility=-", f"--conf-file={config}"])
    rebinds = subprocess.Popen([sys.executable, "-m", rebinding.__name__])
    return [dns, rebinds, start_tunnel(settings)]


def main() -> int:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    settings = json.loads((LAB / "server.json").read_text())
    programs = start(settings)
    print("serving", flush=True)
    try:
        pid, status = os.wait()
    finally:
        for program in programs:
            program.terminate()
    ended = next((str(p.args) for p in programs if p.pid == pid), str(pid))
    print(f"{ended} ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
