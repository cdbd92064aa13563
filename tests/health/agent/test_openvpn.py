"""OpenVPN as PID 1 sees it, with the test in the place of the program at the other end of the management socket."""

import json
import os
import selectors
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from health.agent import nodefile, openvpn, protocol, routes, spawn, tun
from health.agent.openvpn import OpenVpn
from health.agent.program import Failure
from tests.health.agent.test_nodefile import OPENVPN
from tests.health.agent.test_openvpn_management import SESSION


class Stage:
    """What the program under test did, and OpenVPN's end of the conversation."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "management.sock")
        self.config: str | None = "client\n"
        self.started: list[list[str]] = []
        self.network: list[str] = []
        self.selector = selectors.DefaultSelector()
        self.program = OpenVpn(nodefile.parse(json.dumps({**OPENVPN, "dns": ["103.86.96.1"]})), directory)
        self.talk = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.talk.settimeout(5)

    def start(self) -> None:
        assert self.program.start(self.selector, 2) == 4711
        self.talk.connect(self.path)
        self.turn()

    def say(self, data: bytes) -> None:
        self.talk.sendall(data)
        self.turn()

    def turn(self) -> None:
        for key, _ in self.selector.select(5):
            key.data()

    def close(self) -> None:
        self.talk.close()
        for key in list(self.selector.get_map().values()):
            getattr(key.fileobj, "close", lambda: None)()
        self.selector.close()


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage(tmp_path)
    monkeypatch.setattr(openvpn, "_MANAGEMENT", made.path)
    monkeypatch.setattr(protocol, "VPN_UID", os.getuid())
    monkeypatch.setattr(tun, "create_for", lambda _uid: None)
    monkeypatch.setattr(routes, "apply", made.network.append)
    monkeypatch.setattr(spawn, "read_as", lambda _path, _user: made.config)
    monkeypatch.setattr(spawn, "spawn", lambda arguments, **_: made.started.append(arguments) or 4711)
    yield made
    made.close()


def test_from_start_to_connected(stage: Stage) -> None:
    stage.start()
    assert "--auth-user-pass" not in stage.started[0]
    assert not stage.program.link.up
    stage.say(SESSION)
    assert stage.talk.recv(100) == b"state on\nlog on\nhold release\n"
    assert stage.program.link.up
    assert stage.program.link.dns == ("103.86.96.100", "103.86.99.100")
    assert stage.network == [routes.open_tunnel("tun0", openvpn.IPv4Interface("10.8.1.2"), 1500)]


def test_a_reconnect_is_told_at_once_and_moves_the_address(stage: Stage) -> None:
    stage.start()
    stage.say(SESSION)
    stage.say(b">STATE:1,RECONNECTING,ping-restart,,,,,\r\n")
    assert not stage.program.link.up
    assert stage.program.link.reason == "OpenVPN RECONNECTING (ping-restart)"
    stage.say(b">STATE:1,CONNECTED,SUCCESS,10.8.1.3,198.18.0.21,1194,,\r\n")
    assert stage.program.link.up
    stage.say(b">STATE:1,RECONNECTING,ping-restart,,,,,\r\n")
    stage.say(b">STATE:1,CONNECTED,SUCCESS,10.8.1.3,198.18.0.21,1194,,\r\n")
    assert [text.splitlines()[0] for text in stage.network[1:]] == ["address add 10.8.1.3/32 dev tun0"]


def test_without_pushed_name_servers_the_files_are_used(stage: Stage) -> None:
    stage.start()
    stage.say(b">STATE:1,CONNECTED,SUCCESS,10.8.1.3,198.18.0.21,1194,,\r\n")
    assert stage.program.link.dns == ("103.86.96.1",)


def test_refused_credentials_are_the_reason_of_the_end(stage: Stage) -> None:
    stage.start()
    stage.say(b">PASSWORD:Verification Failed: 'Auth'\r\n")
    assert stage.program.failure is not None
    assert stage.program.failure.ended is protocol.Ended.AUTH_FAILED
    assert stage.program.failure.reason == "the VPN server refused the credentials: AUTH_FAILED"


def test_another_user_is_not_listened_to(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "VPN_UID", os.getuid() + 1)
    stage.start()
    assert stage.talk.recv(100) == b""
    monkeypatch.setattr(protocol, "VPN_UID", os.getuid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as right:
        right.settimeout(5)
        right.connect(stage.path)
        stage.turn()
        right.sendall(b">HOLD:Waiting for hold release:0\r\n")
        stage.turn()
        assert right.recv(100).endswith(b"hold release\n")


@pytest.mark.parametrize("last_words", [b"", b"x" * 20000])
def test_the_end_of_the_conversation_takes_the_link_down(stage: Stage, last_words: bytes) -> None:
    stage.start()
    stage.say(SESSION)
    if last_words:
        stage.say(last_words)
    else:
        stage.talk.close()
        stage.turn()
    assert not stage.program.link.up
    assert (stage.program.failure is not None) == bool(last_words)
    assert not stage.program.stop()


def test_it_is_asked_to_end_in_good_order(stage: Stage) -> None:
    assert not stage.program.stop()
    stage.start()
    assert stage.program.stop()
    assert stage.talk.recv(100) == b"signal SIGTERM\n"


@pytest.mark.parametrize(
    ("config", "message"), [(None, "client.ovpn cannot be read by user"), ("up /bin/sh\n", "line 1: up is not allowed")]
)
def test_a_configuration_that_is_not_run(stage: Stage, config: str | None, message: str) -> None:
    stage.config = config
    with pytest.raises(Failure, match=message) as caught:
        stage.program.start(stage.selector, 2)
    assert caught.value.ended is protocol.Ended.CONFIG
    assert not stage.started
