"""Every query of the dashboards as they are checked in, with its variables filled in."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parents[3] / "deploy" / "grafana" / "dashboards"


def dashboards() -> dict[str, dict[str, Any]]:
    return {file.stem: json.loads(file.read_text()) for file in sorted(PLACE.glob("*.json"))}


def queries(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Dashboard and panel, and what Prometheus would be asked; `values` are the variables'."""
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                expression = target["expr"].replace("$__rate_interval", "1m")
                for variable, value in values.items():
                    expression = expression.replace(f"${variable}", value)
                yield f"{name}: {panel['title']} {target['refId']}", expression


def variables() -> dict[str, tuple[str, str]]:
    """Metric and label of every variable."""
    found = {}
    for board in dashboards().values():
        for variable in board["templating"].get("list", ()):
            metric, _, label = variable["query"].removeprefix("label_values(").removesuffix(")").partition(", ")
            found[variable["name"]] = (metric, label)
    return found
