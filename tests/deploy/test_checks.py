"""What `up` checks first."""

import socket
from pathlib import Path

import pytest

from deploy import checks, ports, redis_binary
from deploy.checks import UpError
from deploy.config import Settings
from gateway.config import GatewaySettings


def test_state_directory_is_held_once(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    with checks.only_one(state):
        assert state.stat().st_mode & 0o777 == 0o700
        with pytest.raises(UpError, match=r"already up with .* \(process \d+\)"), checks.only_one(state):
            pytest.fail("held twice")
    with checks.only_one(state):
        pass


def test_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with (
        pytest.raises(UpError, match=r"cannot use the state directory .* --state-dir"),
        checks.only_one(tmp_path / "state"),
    ):
        pytest.fail("used a file")


def test_long_names_get_a_short_private_directory(tmp_path: Path) -> None:
    with checks.socket_directory(tmp_path) as same:
        assert same == tmp_path
    with checks.socket_directory(tmp_path / ("x" * 100)) as other:
        assert len(str(other)) < 90
        assert other.stat().st_mode & 0o777 == 0o700
    assert not other.exists()


def test_one_address_twice() -> None:
    settings = Settings(gateway=GatewaySettings(listen=("127.0.0.9:3128", "127.0.0.9:3128")))
    with pytest.raises(
        UpError, match=r"127\.0\.0\.9:3128: it is configured twice\. Change gateway\.listen, for example "
    ):
        checks.check_ports(settings)


def test_ports_that_are_suggested_are_free_all_of_them() -> None:
    first, second = ports.free("127.0.0.9"), ports.free("127.0.0.9")
    listen = (f"127.0.0.9:{first}", f"127.0.0.9:{second}")
    with socket.create_server(("127.0.0.9", first)), socket.create_server(("127.0.0.9", second)):
        with pytest.raises(UpError) as refused:
            checks.check_ports(Settings(gateway=GatewaySettings(listen=listen)))
        lines = [line for line in str(refused.value).splitlines() if "GATEWAY__LISTEN" in line]
        assert len(lines) == 2
        for line in lines:
            suggested = line.rpartition("=")[2].split(",")
            assert len(set(suggested)) == 2
            assert not any(ports.fault(address) for address in suggested), line


def test_no_address_at_all() -> None:
    with pytest.raises(UpError, match=r"^gateway\.listen is empty: give at least one address"):
        checks.check_ports(Settings(gateway=GatewaySettings(listen=())))


def test_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Path:
        raise redis_binary.NoRedisError("no redis-server: install one")

    monkeypatch.setattr(redis_binary, "find", none)
    with pytest.raises(UpError, match=r"^no redis-server: install one, or name a running one with --redis$"):
        checks.find_redis()
