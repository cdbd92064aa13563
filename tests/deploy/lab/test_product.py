import os
import tomllib
from pathlib import Path

import pytest

from deploy.config import load
from deploy.lab import product, world
from deploy.lab.state import Memory, Place, choose_ports


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "lab")


@pytest.fixture
def memory() -> Memory:
    ports = choose_ports(3128, 1080, 8080)
    return Memory(
        docker_host="unix:///d.sock",
        own_engine=True,
        made_blackhole=True,
        ports=ports,
        password="p4-5s_w0rd-of-the-user",
    )


def test_toml_reads_back_as_it_was(place: Place, memory: Memory) -> None:
    values = product.settings(place, memory) | {"odd": {"text": 'quote " backslash \\ Tōkyō', "number": 3}}
    assert tomllib.loads(product.toml(values)) == values


def test_the_product_accepts_its_configuration(place: Place, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VPNEXIT_")]:
        monkeypatch.delenv(name)
    place.make()
    place.config.write_text(product.toml(product.settings(place, memory)))
    settings = load(place.config)
    assert settings.gateway.require_auth
    assert [str(network) for network in settings.gateway.allow_targets] == [world.RANGE]
    assert [str(network) for network in settings.gateway.trusted_proxies] == ["127.0.0.1/32"]
    assert settings.nordvpn.api_url == f"http://{world.API}"
    assert settings.nordvpn.accounts[0].token_file == place.servers.token
    assert settings.state_dir == place.root


def test_redis_is_first_and_haproxy_in_front_of_both_gateways(place: Place, memory: Memory) -> None:
    programs = {program.name: program for program in product.programs(place, memory)}
    pairs = ["collector", "collector2", "scorer", "scorer2", "gateway1", "gateway2"]
    assert list(programs) == ["redis", "control", *pairs, "haproxy"]
    haproxy = programs["haproxy"].env or {}
    for number, name in enumerate(("gateway1", "gateway2")):
        listen = (programs[name].env or {})["VPNEXIT_GATEWAY__LISTEN"]
        assert listen == f"127.0.0.1:{memory.ports.gateways[number]}"
        assert haproxy[f"VPNEXIT_HAPROXY_{name.upper()}"] == listen


def test_every_part_shows_metrics_on_a_port_of_its_own(place: Place, memory: Memory) -> None:
    values = product.settings(place, memory)
    assert values["scorer"]["metrics_listen"] == f"127.0.0.1:{memory.ports.scorer_metrics}"
    assert values["collector"]["metrics_listen"] == f"127.0.0.1:{memory.ports.collector_metrics}"
    programs = {program.name: program.env or {} for program in product.programs(place, memory)}
    assert programs["haproxy"]["VPNEXIT_HAPROXY_METRICS"] == f"127.0.0.1:{memory.ports.haproxy_metrics}"


def test_no_secret_is_on_a_command_line_or_in_an_environment(place: Place, memory: Memory) -> None:
    for program in product.programs(place, memory):
        assert memory.password not in " ".join(str(part) for part in program.argv)
        assert memory.password not in (program.env or {}).values()
