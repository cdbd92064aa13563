import json
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import fleet, packages, world
from deploy.lab.shell import LabError
from deploy.lab.state import Memory, Place, choose_ports


@pytest.fixture
def memory() -> Memory:
    ports = choose_ports(3128, 1080, 8080)
    return Memory(docker_host="unix:///d.sock", own_engine=True, made_blackhole=False, ports=ports, password="pw")


@pytest.fixture
def place(tmp_path: Path, memory: Memory) -> Place:
    place = Place(tmp_path / "lab")
    place.make()
    place.remember(memory)
    return place


def test_status_says_how_to_reach_everything(place: Place, memory: Memory) -> None:
    ports = memory.ports
    told = fleet.status(place, [("gb", "gb000001"), ("jp", "jp000001"), ("jp", "jp000002")])
    assert json.loads(json.dumps(told)) == {
        "proxy": {"host": "127.0.0.1", "port": 3128, "user": "lab", "password": "pw"},
        "whoami": "http://198.19.10.80/",
        "whoami_tls": "https://198.19.10.80/",
        "api": "http://127.0.0.1:8080",
        "metrics": {
            "gateway": [f"127.0.0.1:{port}" for port in ports.gateways_metrics],
            "control": ["127.0.0.1:8080"],
            "scorer": [f"127.0.0.1:{ports.scorer_metrics}"],
            "collector": [f"127.0.0.1:{ports.collector_metrics}"],
            "haproxy": [f"127.0.0.1:{ports.haproxy_metrics}"],
        },
        "docker_host": "unix:///d.sock",
        "state_dir": str(place.root),
        "countries": {
            "jp": {"port": 10392, "egress": world.egresses("jp"), "nodes": ["jp000001", "jp000002"]},
            "us": {"port": 10840, "egress": world.egresses("us"), "nodes": []},
            "gb": {"port": 10826, "egress": world.egresses("gb"), "nodes": ["gb000001"]},
        },
    }


def test_only_running_nodes_count_as_serving(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Control:
        def __init__(self, *_: object) -> None:
            pass

        def nodes(self) -> list[dict[str, Any]]:
            states = {"jp000001": "running", "jp000002": "starting", "jp000003": "error", "jp000004": "stopping"}
            return [{"id": name, "country": "jp", "status": status} for name, status in states.items()]

    monkeypatch.setattr(fleet, "ControlClient", Control)
    assert fleet.serving_nodes(place) == [("jp", "jp000001")]


def test_without_a_lab_every_question_says_so(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for question in (
        lambda: fleet.status(place, []),
        lambda: fleet.serving_nodes(place),
        lambda: fleet.processes(place),
        lambda: fleet.stop(place, "redis"),
        lambda: fleet.start(place, "us1"),
    ):
        with pytest.raises(LabError, match="the lab is not up: run make lab"):
            question()


def test_it_needs_root_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "is_root", lambda: False)
    with pytest.raises(LabError, match="needs root on Linux"):
        fleet.up(Place(tmp_path), lambda _: None, http=3128, socks=1080, api=8080)
    with pytest.raises(LabError, match="needs root on Linux"):
        fleet.down(Place(tmp_path), lambda _: None)


def test_a_pool_that_stays_short_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Control:
        def pools(self) -> dict[str, dict[str, Any]]:
            return {
                "jp": {"country": "jp", "serving": 1, "desired": 2},
                "us": {"country": "us", "serving": 1, "desired": 1},
            }

    told: list[str] = []
    short = list(fleet._waiting(Control(), told.append, deadline=0.0))  # type: ignore[arg-type]
    assert [pool["country"] for pool in short] == ["jp"]
    assert told == ["jp 1/2, us 1/1"]


def test_curl_lines_name_the_country_three_ways(memory: Memory) -> None:
    lines = fleet.curl_lines(memory, "gb")
    assert lines == [
        "curl -x http://lab-country-gb:pw@127.0.0.1:3128 http://whoami.lab.vpnexit.example/",
        "curl -x http://lab:pw@127.0.0.1:10826 http://whoami.lab.vpnexit.example/",
        "curl -x socks5h://lab-country-gb:pw@127.0.0.1:1080 http://whoami.lab.vpnexit.example/",
    ]
