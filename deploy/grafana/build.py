"""Makes Grafana's JSON of the dashboards, by Grafana's own library: `python -m deploy.grafana.build`."""

import json
from collections.abc import Callable
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.boards import BOARDS
from deploy.grafana.panels import Board, Kind, Panel, Query, Variable

PLACE = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef("prometheus", "vpnexit-prometheus")
_TAG = "vpnexit"
_Builder = timeseries.Panel | stat.Panel | table.Panel


def built(board: Board) -> str:
    """The JSON of `board`, as it stands in its file."""
    made = (
        dashboard.Dashboard(board.title)
        .uid(f"vpnexit-{board.name}")
        .description(board.text)
        .tags([_TAG])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(dashboard.DashboardLink("VPN exits").type(DashboardLinkType.DASHBOARDS).tags([_TAG]).as_dropdown(True))
    )
    for variable in board.variables:
        made.with_variable(_variable(variable))
    number = 0
    for row in board.rows:
        number += 1
        made.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            made.with_panel(_panel(panel).id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _variable(variable: Variable) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(variable.name)
        .query(variable.query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )


def _panel(panel: Panel) -> _Builder:
    made = _KINDS[panel.kind](panel)
    made.title(panel.title).unit(panel.unit).datasource(SOURCE).span(panel.width)
    if panel.text:
        made.description(panel.text)
    for index, query in enumerate(panel.queries):
        target = _query(query, chr(ord("A") + index), now=panel.kind is not Kind.LINES)
        made.with_target(target.format(PromQueryFormat.TABLE) if panel.kind is Kind.TABLE else target)
    return made


def _query(query: Query, name: str, *, now: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).ref_id(name).datasource(SOURCE)
    if query.legend:
        made.legend_format(query.legend)
    return made.instant() if now else made.range()


def _lines(panel: Panel) -> timeseries.Panel:
    made = timeseries.Panel().height(7).min(0).fill_opacity(10)
    made.legend(common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM))
    return made if panel.largest is None else made.max(panel.largest)


def _number(panel: Panel) -> stat.Panel:
    return stat.Panel().height(4)


def _table(panel: Panel) -> table.Panel:
    return table.Panel().height(7)


_KINDS: dict[Kind, Callable[[Panel], _Builder]] = {Kind.LINES: _lines, Kind.NUMBER: _number, Kind.TABLE: _table}


def main() -> None:
    PLACE.mkdir(exist_ok=True)
    for board in BOARDS:
        (PLACE / f"{board.name}.json").write_text(built(board))


if __name__ == "__main__":
    main()
