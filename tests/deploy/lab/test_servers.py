import json
import stat
from pathlib import Path

import pytest

from deploy.lab import servers, world
from health.model import Protocol


@pytest.fixture
def files(tmp_path: Path) -> servers.Files:
    servers.write(made := servers.Files(tmp_path / "servers"))
    return made


def test_keys_of_a_running_lab_are_kept(files: servers.Files) -> None:
    before = {path: path.read_bytes() for path in files.root.rglob("*") if path.is_file()}
    servers.write(files)
    assert {path: path.read_bytes() for path in files.root.rglob("*") if path.is_file()} == before


def test_two_labs_share_no_secret(files: servers.Files, tmp_path: Path) -> None:
    servers.write(other := servers.Files(tmp_path / "other"))
    for name in ("ca", "tls_auth", "token"):
        assert getattr(files, name).read_bytes() != getattr(other, name).read_bytes()


def test_every_file_is_private(files: servers.Files) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in files.root.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_a_server_gets_what_its_protocol_needs_and_no_more(files: servers.Files) -> None:
    openvpn = {"server.json", "openvpn.conf", "ca.crt", "server.crt", "server.key", "ta.key", "credentials"}
    for server in world.SERVERS:
        names = {path.name for path in files.of(server.container).iterdir()}
        assert names == ({"server.json", "wg0.conf"} if server.protocol is Protocol.WIREGUARD else openvpn)


def test_the_account_opens_every_server(files: servers.Files) -> None:
    account = json.loads(files.world.read_text())["accounts"][0]
    assert files.token.read_text().strip() == account["token"]
    for server in world.SERVERS:
        directory = files.of(server.container)
        if server.protocol is Protocol.WIREGUARD:
            assert f"PublicKey = {account['nordlynx_public_key']}" in (directory / "wg0.conf").read_text()
        else:
            assert (directory / "credentials").read_text() == f"{account['username']}\n{account['password']}\n"
            assert (directory / "ta.key").read_bytes() == files.tls_auth.read_bytes()


def test_openvpn_pushes_what_nordvpn_pushes() -> None:
    udp, tcp = (
        next(server for server in world.SERVERS if server.protocol is protocol)
        for protocol in (Protocol.OPENVPN_UDP, Protocol.OPENVPN_TCP)
    )
    text = servers.openvpn_config(udp)
    for line in (
        "proto udp",
        "port 1194",
        "server 10.8.1.0 255.255.255.0",
        "auth SHA512",
        "data-ciphers AES-256-GCM",
        'push "redirect-gateway def1"',
        'push "dhcp-option DNS 103.86.96.100"',
        'push "ping 60"',
        'push "explicit-exit-notify"',
    ):
        assert line in text.splitlines()
    lines = servers.openvpn_config(tcp).splitlines()
    assert {"proto tcp-server", "port 443", "server 10.8.2.0 255.255.255.0"} <= set(lines)
    assert 'push "explicit-exit-notify"' not in lines


def test_what_a_vpn_server_reads_is_complete() -> None:
    settings = servers.settings(world.SERVERS[0])
    assert settings["protocol"] == "wireguard"
    assert (settings["entry"], settings["egress"]) == ("198.18.10.11", "198.19.10.11")
    assert settings["mac"] == world.SERVERS[0].mac
    assert json.loads(json.dumps(settings)) == settings
