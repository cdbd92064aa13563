"""The body of an exit container, as Docker Engine's API takes it (API 1.41, `POST /containers/create`). Pure.

The container has no capability but the three its first process needs, a root file system nobody can write to, nothing
listening, no restart policy (control replaces nodes) and no secret in its environment, labels or command line.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.model import LABEL
from health.model import Node

AGENT_DIR = "/run/vpnexit/agent"
CONFIG_DIR = "/etc/vpnexit"
CAPABILITIES = ("NET_ADMIN", "SETUID", "SETGID")
SYSCTLS = {
    # One exit dials many connections to few targets: more source ports, and their early reuse (tcp(7)).
    "net.ipv4.ip_local_port_range": "1024 65535",
    "net.ipv4.tcp_tw_reuse": "1",
    # A socket closed just before its exit died waits for an acknowledgement that cannot come, and keeps the namespace
    # alive: about 1.4 s with one retry, 100 s with the default of eight (tcp(7)).
    "net.ipv4.tcp_orphan_retries": "1",
    # Tunnels lower the MTU and drop what would say so: probe (RFC 4821).
    "net.ipv4.tcp_mtu_probing": "1",
}
MEMORY_BYTES = 256 * 1024 * 1024
PIDS = 64
STOP_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Site:
    """What all exit containers of this machine share."""

    fleet: str
    image: str
    network: str


def container_name(node_id: str) -> str:
    """The name derives from the claim on the slot, so that a second create is refused, not a second node."""
    return f"vpnexit-{node_id}"


def container_body(site: Site, node: Node, epoch: str, agent_dir: Path, config_dir: Path) -> dict[str, Any]:
    """The whole body for `node`, its directories on the host being `agent_dir` and `config_dir`."""
    return {
        "Image": site.image,
        "Hostname": node.id,
        "Labels": {
            LABEL + "fleet": site.fleet,
            LABEL + "node": node.id,
            LABEL + "country": node.country,
            LABEL + "slot": node.slot,
            LABEL + "epoch": epoch,
        },
        "StopSignal": "SIGTERM",
        "StopTimeout": STOP_SECONDS,
        "HostConfig": {
            "NetworkMode": site.network,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            "SecurityOpt": ["no-new-privileges:true"],
            "ReadonlyRootfs": True,
            "Tmpfs": {
                "/run": "rw,nosuid,nodev,noexec,size=16m,mode=0755",
                "/tmp": "rw,nosuid,nodev,noexec,size=16m,mode=1777",  # noqa: S108 - inside the container
            },
            "Mounts": [_bind(agent_dir, AGENT_DIR, read_only=False), _bind(config_dir, CONFIG_DIR, read_only=True)],
            "Devices": [{"PathOnHost": "/dev/net/tun", "PathInContainer": "/dev/net/tun", "CgroupPermissions": "rwm"}],
            "Sysctls": dict(SYSCTLS),
            "RestartPolicy": {"Name": "no"},
            "PidsLimit": PIDS,
            "Memory": MEMORY_BYTES,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
        },
    }


def _bind(source: Path, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": read_only}
