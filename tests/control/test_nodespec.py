"""The container's body: exactly the rights an exit needs."""

from pathlib import Path

from control.nodespec import Site, container_body, container_name
from health.model import Node, NodeKind, NodeStatus

NODE = Node(id="jp3f9a1c", country="jp", kind=NodeKind.VPN, machine="m", status=NodeStatus.REQUESTED, slot="jp-0")
BODY = container_body(Site("fleet1", "vpnexit-exit", "uplink"), NODE, "e1", Path("/s/agent"), Path("/s/config"))
HOST = BODY["HostConfig"]


def test_labels_and_name() -> None:
    assert container_name(NODE.id) == "vpnexit-jp3f9a1c"
    assert BODY["Labels"] == {
        "io.vpnexit.fleet": "fleet1",
        "io.vpnexit.node": "jp3f9a1c",
        "io.vpnexit.country": "jp",
        "io.vpnexit.slot": "jp-0",
        "io.vpnexit.epoch": "e1",
    }


def test_rights() -> None:
    assert HOST["CapDrop"] == ["ALL"]
    assert sorted(HOST["CapAdd"]) == ["NET_ADMIN", "SETGID", "SETUID"]
    assert HOST["SecurityOpt"] == ["no-new-privileges:true"]
    assert HOST["ReadonlyRootfs"] is True
    assert not HOST.get("Privileged")
    assert [device["PathOnHost"] for device in HOST["Devices"]] == ["/dev/net/tun"]


def test_nothing_secret_and_nothing_listening() -> None:
    assert not {"Env", "Cmd", "ExposedPorts", "User"} & set(BODY)
    assert "PortBindings" not in HOST


def test_mounts() -> None:
    assert [(m["Source"], m["Target"], m["ReadOnly"]) for m in HOST["Mounts"]] == [
        ("/s/agent", "/run/vpnexit/agent", False),
        ("/s/config", "/etc/vpnexit", True),
    ]
    assert set(HOST["Tmpfs"]) == {"/run", "/tmp"}


def test_kernel_and_limits() -> None:
    assert HOST["Sysctls"] == {
        "net.ipv4.ip_local_port_range": "1024 65535",
        "net.ipv4.tcp_tw_reuse": "1",
        "net.ipv4.tcp_orphan_retries": "1",
        "net.ipv4.tcp_mtu_probing": "1",
    }
    assert HOST["RestartPolicy"] == {"Name": "no"}
    assert HOST["NetworkMode"] == "uplink"
    assert HOST["PidsLimit"] > 0
    assert HOST["Memory"] > 0
    assert HOST["LogConfig"]["Config"]["max-size"]
