import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.lab import cli, fleet
from deploy.lab.shell import LabError
from deploy.lab.state import Memory, Place, choose_ports


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path / "lab")
    place.make()
    ports = choose_ports(3128, 1080, 8080)
    memory = Memory(docker_host="unix:///d", own_engine=True, made_blackhole=False, ports=ports, password="pw")
    place.remember(memory)
    return place


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["stop", "redis"], ["start", "redis"]])
def test_without_a_lab_it_is_one_line_and_exit_code_one(command: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, [*command, "--state-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == ["vpnexit: the lab is not up: run make lab"]


def test_status_is_printed_though_control_does_not_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_: Place) -> list[tuple[str, str]]:
        raise LabError("control: no answer")

    monkeypatch.setattr(fleet, "serving_nodes", silent)
    result = CliRunner().invoke(cli.app, ["status", "--json", "--state-dir", str(place.root)])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["countries"]["jp"]["nodes"] == []
    assert result.stderr == "vpnexit: control: no answer\n"


def test_up_shows_its_steps_and_the_lines_to_try(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = place.recall()

    def up(_: Place, step: fleet.Step, **ports: int) -> Memory | None:
        assert ports == {"http": 3128, "socks": 1081, "api": 8080}
        with step("the first step") as tell:
            tell("a detail")
        return memory

    monkeypatch.setattr(fleet, "up", up)
    result = CliRunner().invoke(cli.app, ["up", "--socks-port", "1081", "--state-dir", str(place.root)])
    assert result.exit_code == 0, result.output
    assert "✓ the first step" in result.stdout
    assert "curl -x http://lab-country-jp:pw@127.0.0.1:3128 http://whoami.lab.vpnexit.example/" in result.stdout


def test_a_second_command_waits_for_nobody(place: Place) -> None:
    with place.held():
        result = CliRunner().invoke(cli.app, ["down", "--state-dir", str(place.root)])
    assert result.exit_code == 1
    assert "at work" in result.stderr
