import socket
import stat
from pathlib import Path

import pytest

from deploy.lab.shell import LabError
from deploy.lab.state import HOST, Memory, Place, Ports, check_ports, choose_ports, new_password


def _memory(ports: Ports) -> Memory:
    return Memory(docker_host="unix:///d.sock", own_engine=True, made_blackhole=True, ports=ports, password="p" * 24)


def test_what_was_decided_is_remembered_and_private(tmp_path: Path) -> None:
    place = Place(tmp_path / "lab")
    place.make()
    assert place.recall() is None
    memory = _memory(choose_ports(3128, 1080, 8080))
    place.remember(memory)
    assert Place(tmp_path / "lab").recall() == memory
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o700
    assert stat.S_IMODE((place.root / "lab.json").stat().st_mode) == 0o600


def test_a_damaged_memory_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "lab.json").write_text("{")
    with pytest.raises(LabError, match="make lab-down"):
        Place(tmp_path).recall()


def test_a_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="--state-dir"):
        Place(tmp_path / ("x" * 100)).make()


def test_ports_of_the_gateways_are_free_and_no_countrys() -> None:
    ports = choose_ports(3128, 1080, 8080)
    metrics = (ports.scorer_metrics, ports.collector_metrics, ports.haproxy_metrics)
    own = (*ports.gateways, *ports.gateways_metrics, *metrics)
    assert len(set(own)) == 7
    assert not any(10000 <= port <= 10899 for port in own)


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.create_server((HOST, 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(LabError, match=rf"{HOST}:{number}: .*--socks-port"):
            check_ports(choose_ports(_free(), number, _free()), [])


def test_one_command_at_a_time(tmp_path: Path) -> None:
    with Place(tmp_path / "lab").held(), pytest.raises(LabError, match="at work"), Place(tmp_path / "lab").held():
        pass
    with Place(tmp_path / "lab").held():
        pass


def test_passwords_differ_and_need_no_quoting() -> None:
    first, second = new_password(), new_password()
    assert first != second
    assert first.replace("-", "").replace("_", "").isalnum()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
