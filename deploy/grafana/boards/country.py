"""One country: its exits beside each other."""

from deploy.grafana.boards.terms import quantiles, rate
from deploy.grafana.panels import Board, Kind, Panel, Query, Row, Variable, lines, number

_COUNTRY = Variable("country", "vpnexit_control_serving_nodes", "country")
_HERE = '{country="$country"}'

COUNTRY = Board(
    "country",
    "VPN exits: country",
    "One country: its exits beside each other.",
    (
        Row(
            "Now",
            (
                number("Exits that serve", f"country:nodes_serving:max{_HERE}"),
                number("Exits wished for", f"country:nodes_desired:max{_HERE}"),
                number("At least", f"country:nodes_min:max{_HERE}"),
                number("May be chosen", f"country:nodes_healthy:sum{_HERE}"),
                number("Mean score", f"country:score:avg{_HERE}", "percentunit"),
                number("Panic", f"country:pool_panic:max{_HERE}", text="1: too many are bad, bad ones are used."),
            ),
        ),
        Row(
            "Exits",
            (
                Panel(
                    "Exits",
                    (Query(f"max by (node, kind, status) (vpnexit_control_node_status{_HERE})"),),
                    kind=Kind.TABLE,
                ),
                lines(
                    "Score",
                    f"max by (node) (vpnexit_scorer_score_ratio{_HERE})",
                    "{{node}}",
                    "percentunit",
                    largest=1.0,
                ),
                lines("Round trip", f"max by (node) (vpnexit_collector_probe_seconds{_HERE})", "{{node}}", "s"),
                lines(
                    "Loss",
                    f"max by (node) (vpnexit_collector_probe_loss_ratio{_HERE})",
                    "{{node}}",
                    "percentunit",
                    largest=1.0,
                ),
                lines(
                    "Connections now",
                    'sum by (node) (vpnexit_gateway_node_connections{node=~"$country.*"})',
                    "{{node}}",
                ),
                lines(
                    "Left out for being worse than the others",
                    f"max by (node) (vpnexit_scorer_node_ejected{_HERE}) or vector(0)",
                    "{{node}}",
                ),
                lines("Tunnel up", f"max by (node) (vpnexit_collector_tunnel_up{_HERE})", "{{node}}"),
            ),
        ),
        Row(
            "Traffic",
            (
                lines("Connections ended", rate("vpnexit_gateway_connections_total", "node", _HERE), "{{node}}", "cps"),
                lines(
                    "How they ended", rate("vpnexit_gateway_connections_total", "reason", _HERE), "{{reason}}", "cps"
                ),
                lines(
                    "Bytes",
                    rate("vpnexit_gateway_bytes_total", "node, direction", _HERE),
                    "{{node}} {{direction}}",
                    "Bps",
                ),
                lines(
                    "Dials that failed",
                    rate("vpnexit_gateway_dial_failures_total", "node, reason", _HERE) + " or vector(0)",
                    "{{node}} {{reason}}",
                ),
                quantiles("From choosing an exit to the target", f"country_le:dial_seconds_bucket:rate5m{_HERE}"),
                quantiles("From there to the first byte", f"country_le:first_byte_seconds_bucket:rate5m{_HERE}"),
            ),
        ),
    ),
    (_COUNTRY,),
)
