"""One node: what was measured, what was made of it, what goes through."""

from deploy.grafana.boards.terms import RATE, rate
from deploy.grafana.panels import Board, Panel, Query, Row, Variable, lines, number

_NODE = Variable("node", "vpnexit_control_node_status", "node")
_THIS = '{node="$node"}'

NODE = Board(
    "node",
    "VPN exits: node",
    "One exit: what was measured, what was made of it, what goes through. WireGuard's handshake is a WireGuard exit's.",
    (
        Row(
            "Score",
            (
                number("Score", f"max(vpnexit_scorer_score_ratio{_THIS})", "percentunit"),
                number("May be chosen", f"max(vpnexit_scorer_node_healthy{_THIS})"),
                number("Agent answers", f"max(vpnexit_collector_agent_reachable{_THIS})"),
                number("Tunnel up", f"max(vpnexit_collector_tunnel_up{_THIS})"),
                number("Kill switch", f"max(vpnexit_collector_kill_switch{_THIS})"),
                number("Connections now", f"sum(vpnexit_gateway_node_connections{_THIS})"),
                lines(
                    "Terms of the score", 'max by (term) (vpnexit_scorer_term{node="$node",term!="health"})', "{{term}}"
                ),
                lines("State", f"vpnexit_control_node_status{_THIS}", "{{status}}"),
            ),
        ),
        Row(
            "Tunnel",
            (
                Panel(
                    "Latency",
                    (
                        Query(f"max(vpnexit_collector_probe_seconds{_THIS})", "round trip"),
                        Query(f"max(vpnexit_collector_connect_seconds{_THIS})", "TCP connect"),
                        Query(f"max(vpnexit_collector_dns_seconds{_THIS})", "look-up"),
                        Query(f"max(vpnexit_scorer_latency_seconds{_THIS})", "smoothed"),
                    ),
                    "s",
                ),
                lines("Loss", f"max(vpnexit_collector_probe_loss_ratio{_THIS})", "loss", "percentunit", largest=1.0),
                Panel(
                    "Bytes through the tunnel",
                    (
                        Query(f"max(rate(vpnexit_collector_received_bytes_total{_THIS}{RATE}))", "in"),
                        Query(f"max(rate(vpnexit_collector_sent_bytes_total{_THIS}{RATE}))", "out"),
                    ),
                    "Bps",
                ),
                lines("CPU", f"max(vpnexit_collector_cpu_cores{_THIS})", "cores", text="The exit's container."),
                lines("Memory", f"max(vpnexit_collector_memory_bytes{_THIS})", "in use", "bytes"),
                lines("Age of the handshake", f"max(vpnexit_collector_handshake_age_seconds{_THIS})", "handshake", "s"),
            ),
        ),
        Row(
            "Traffic",
            (
                lines(
                    "Connections by end",
                    rate("vpnexit_gateway_connections_total", "reason", _THIS),
                    "{{reason}}",
                    "cps",
                ),
                lines("Bytes", rate("vpnexit_gateway_bytes_total", "direction", _THIS), "{{direction}}", "Bps"),
                lines("Dials", rate("vpnexit_gateway_dials_total", where=_THIS), "connected", "cps"),
                lines(
                    "Dials that failed",
                    rate("vpnexit_gateway_dial_failures_total", "reason", _THIS) + " or vector(0)",
                    "{{reason}}",
                ),
            ),
        ),
    ),
    (_NODE,),
)
