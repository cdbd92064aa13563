"""What a dashboard is made of, before it is Grafana's JSON. Values only."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a panel looks."""

    LINES = "lines"
    NUMBER = "number"
    TABLE = "table"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and the name of each series (`{{country}}` is a label's value)."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is one of Grafana's (`s`, `Bps`, `short` …), `width` in 24ths, `largest` the end of the axis."""

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: Kind = Kind.LINES
    width: int = 12
    text: str = ""
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and what stands below it."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Variable:
    """What the reader chooses from: the values of `label` of a metric."""

    name: str
    metric: str
    label: str

    @property
    def query(self) -> str:
        return f"label_values({self.metric}, {self.label})"


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard; `name` is that of its file."""

    name: str
    title: str
    text: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()


def lines(title: str, expr: str, legend: str = "", unit: str = "short", **more: int | float | str) -> Panel:
    """Lines over time, by one query."""
    return Panel(title, (Query(expr, legend),), unit, Kind.LINES, **more)  # type: ignore[arg-type]


def number(title: str, expr: str, unit: str = "short", text: str = "") -> Panel:
    """One number, as it is now."""
    return Panel(title, (Query(expr),), unit, Kind.NUMBER, 4, text)
