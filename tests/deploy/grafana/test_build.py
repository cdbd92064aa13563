"""The dashboards' JSON: as it is made, valid by Grafana's own model, its queries understood by Prometheus."""

import json
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.boards import BOARDS
from deploy.grafana.build import PLACE, SOURCE, built
from deploy.grafana.panels import Board
from tests.deploy.grafana.queries import dashboards, queries, variables

PROVISIONING = PLACE.parent / "provisioning"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_what_is_checked_in_is_what_is_made(board: Board) -> None:
    assert (PLACE / f"{board.name}.json").read_text() == built(board), "run: python -m deploy.grafana.build"


def test_nothing_else_is_checked_in() -> None:
    assert set(dashboards()) == {board.name for board in BOARDS} == {"fleet", "country", "node", "gateway"}


@pytest.mark.parametrize("name", dashboards())
def test_it_is_what_grafanas_model_knows(name: str) -> None:
    told = dashboards()[name]
    known = json.loads(json.dumps(Dashboard.from_json(told), cls=JSONEncoder))
    assert {key: value for key, value in known.items() if key != "panels"} == {
        key: value for key, value in told.items() if key != "panels"
    }
    assert [panel["title"] for panel in known["panels"]] == [panel["title"] for panel in told["panels"]]
    assert told["schemaVersion"] >= 36


@pytest.mark.parametrize("name", dashboards())
def test_panels_have_ids_and_places_of_their_own(name: str) -> None:
    panels = dashboards()[name]["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(set(ids)) == len(ids)
    assert min(ids) > 0
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_every_query_is_promql(tmp_path: Path) -> None:
    values = dict.fromkeys(variables(), "x")
    found = list(queries(values))
    assert len(found) > 80
    assert not [query for query in found if "$" in query[1]]
    rules = [{"record": f"checked:query:{number}", "expr": expr} for number, (_, expr) in enumerate(found)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_variable_that_is_used_is_there() -> None:
    for name, board in dashboards().items():
        own = {variable["name"] for variable in board["templating"].get("list", ())}
        text = json.dumps(board).replace("$__rate_interval", "")
        assert set(variables()) & {word for word in variables() if f"${word}" in text} == own, name


def test_the_source_is_provisioned_under_the_name_that_is_used() -> None:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "vpnexit.yml").read_text())["datasources"]
    assert (source["uid"], source["type"]) == (SOURCE.uid, SOURCE.type_val)
    for board in dashboards().values():
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "vpnexit.yml").read_text())["providers"]
    assert provider["options"]["path"] == "$VPNEXIT_DASHBOARDS"
