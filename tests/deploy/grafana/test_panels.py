"""What dashboards are made of."""

from deploy.grafana.panels import Kind, Query, Variable, lines, number


def test_short_forms() -> None:
    panel = lines("Bytes", "rate(b[1m])", "{{node}}", "Bps", largest=1.0)
    assert (panel.kind, panel.queries, panel.unit, panel.largest) == (
        Kind.LINES,
        (Query("rate(b[1m])", "{{node}}"),),
        "Bps",
        1.0,
    )
    assert (number("Exits", "sum(a)").kind, number("Exits", "sum(a)").width) == (Kind.NUMBER, 4)


def test_a_variable_asks_for_a_labels_values() -> None:
    assert Variable("gateway", "up", "instance").query == "label_values(up, instance)"
