import json
import stat
from pathlib import Path

import pytest

from deploy.lab import servers, world
from deploy.lab.engine import Engine
from deploy.lab.shell import LabError
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


class _Docker(Engine):
    """An engine with one server: what `ps` lists it under, and its log. Notes what it was asked."""

    def __new__(cls, **_: object) -> "_Docker":
        return object.__new__(cls)

    def __init__(self, *, state: str, ended: str = "0001-01-01T00:00:00Z", log: str = "serving\n") -> None:
        super().__init__("unix:///nonexistent.sock", own=True)
        for name, value in {"state": state, "ended": ended, "log": log, "asked": []}.items():
            object.__setattr__(self, name, value)

    def docker(self, *arguments: object, timeout: float = 0, stdin: str | None = None) -> str:
        line = " ".join(map(str, arguments))
        self.asked.append(line)  # type: ignore[attr-defined]
        if line.startswith("ps"):
            listed = self.state == "created" if "status=created" in line else self.state  # type: ignore[attr-defined]
            return SERVER.container if listed and (self.state == "running" or "--all" in line) else ""  # type: ignore[attr-defined]
        if line.startswith("rm"):
            object.__setattr__(self, "state", "")
        if line.startswith("inspect"):
            return f"true {self.ended}"  # type: ignore[attr-defined]
        return str(self.log) if line.startswith("logs") else ""  # type: ignore[attr-defined]


SERVER = world.SERVERS[-1]


def asked(files: servers.Files, **docker: str) -> list[str]:
    engine = _Docker(**docker)
    servers.start(engine, files, [SERVER.container])
    words = ("rm", "create", "network connect", "start", "logs")
    return [line for line in engine.asked if line.startswith(words)]  # type: ignore[attr-defined]


def test_one_that_was_made_by_halves_is_made_anew(files: servers.Files) -> None:
    remove, create, connect, start, _ = asked(files, state="created")
    assert remove == f"rm --volumes {SERVER.container}"
    assert create.startswith(f"create --name {SERVER.container} ")
    assert connect.endswith(f"{world.WAN} {SERVER.container}")
    assert start == f"start {SERVER.container}"


def test_what_runs_is_left_alone_and_what_was_stopped_is_started(files: servers.Files) -> None:
    assert asked(files, state="running") == [f"logs {SERVER.container}"]
    ended = "2026-11-26T01:00:00.5Z"
    assert asked(files, state="exited", ended=ended) == [
        f"start {SERVER.container}",
        f"logs --since {ended} {SERVER.container}",
    ]


def test_one_that_does_not_come_up_is_named(files: servers.Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "READY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(Engine, "last_words", lambda *_: "no tun")
    with pytest.raises(LabError, match=rf"{SERVER.container} did not come up: no tun"):
        asked(files, state="running", log="")
