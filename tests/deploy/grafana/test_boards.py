"""The dashboards as data: titles, and queries that several use."""

from deploy.grafana.boards import BOARDS
from deploy.grafana.boards.terms import quantiles, rate


def test_rates_and_quantiles() -> None:
    assert rate("x_total") == "sum (rate(x_total[$__rate_interval]))"
    assert rate("x_total", "a, b", '{c="d"}') == 'sum by (a, b) (rate(x_total{c="d"}[$__rate_interval]))'
    panel = quantiles("Dial", "b")
    assert [query.expr for query in panel.queries] == [f"histogram_quantile({share}, b)" for share in (0.5, 0.95, 0.99)]


def test_titles_differ_within_a_dashboard() -> None:
    for board in BOARDS:
        titles = [(row.title, panel.title) for row in board.rows for panel in row.panels]
        assert len(set(titles)) == len(titles), board.name
        assert all(panel.queries for row in board.rows for panel in row.panels)
