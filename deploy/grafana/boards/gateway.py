"""One gateway, in sum over its workers."""

from deploy.grafana.boards.terms import quantiles, rate
from deploy.grafana.panels import Board, Panel, Query, Row, Variable, lines, number

_GATEWAY = Variable("gateway", "vpnexit_gateway_workers", "instance")
_ONE = '{instance="$gateway"}'

GATEWAY = Board(
    "gateway",
    "VPN exits: gateway",
    "One gateway, in sum over its workers.",
    (
        Row(
            "Now",
            (
                number("Clients connected", f"vpnexit_gateway_open_connections{_ONE}"),
                number("UDP associations", f"vpnexit_gateway_udp_associations{_ONE}"),
                number("Workers", f"vpnexit_gateway_workers{_ONE}"),
                number("Workers that died", f"vpnexit_gateway_worker_restarts_total{_ONE}"),
                number("Descriptors in use", f"instance:descriptors:ratio{_ONE}", "percentunit"),
                number("Age of what it knows", f"vpnexit_gateway_snapshot_age_seconds{_ONE}", "s"),
            ),
        ),
        Row(
            "Clients",
            (
                lines("Accepted", rate("vpnexit_gateway_accepted_connections_total", where=_ONE), "accepted", "cps"),
                lines("Connected", f"vpnexit_gateway_open_connections{_ONE}", "open"),
                lines("Refused", rate("vpnexit_gateway_refusals_total", "reason", _ONE), "{{reason}}", "cps"),
                lines("Ended", rate("vpnexit_gateway_connections_total", "reason", _ONE), "{{reason}}", "cps"),
                lines("Bytes", rate("vpnexit_gateway_bytes_total", "direction", _ONE), "{{direction}}", "Bps"),
                lines(
                    "Connections by country",
                    rate("vpnexit_gateway_connections_total", "country", _ONE),
                    "{{country}}",
                    "cps",
                ),
            ),
        ),
        Row(
            "Dialling",
            (
                quantiles(
                    "From choosing an exit to the target", rate("vpnexit_gateway_dial_seconds_bucket", "le", _ONE)
                ),
                quantiles(
                    "From there to the first byte", rate("vpnexit_gateway_first_byte_seconds_bucket", "le", _ONE)
                ),
                lines("Dials", rate("vpnexit_gateway_dials_total", "country", _ONE), "{{country}}", "cps"),
                lines(
                    "Dials that failed",
                    rate("vpnexit_gateway_dial_failures_total", "country, reason", _ONE) + " or vector(0)",
                    "{{country}} {{reason}}",
                ),
            ),
        ),
        Row(
            "Limits",
            (
                Panel(
                    "Descriptors",
                    (
                        Query(f"vpnexit_gateway_descriptors_open{_ONE}", "open"),
                        Query(f"vpnexit_gateway_descriptors_limit{_ONE}", "limit"),
                    ),
                ),
                lines(
                    "Stopped accepting",
                    rate("vpnexit_gateway_accept_pauses_total", "reason", _ONE),
                    "{{reason}}",
                    "cps",
                ),
                lines("Log lines dropped", rate("vpnexit_gateway_log_lines_dropped_total", where=_ONE), "lines"),
                lines(
                    "Datagrams dropped",
                    rate("vpnexit_gateway_datagrams_dropped_total", "direction, reason", _ONE) + " or vector(0)",
                    "{{direction}} {{reason}}",
                ),
            ),
        ),
    ),
    (_GATEWAY,),
)
