"""The fleet: where exits serve, what goes through, what control, accounts and health do."""

from deploy.grafana.boards.terms import RATE, quantiles, rate
from deploy.grafana.panels import Board, Panel, Query, Row, lines, number

FLEET = Board(
    "fleet",
    "VPN exits: fleet",
    "Everything at a glance: where exits serve, what goes through, what control and the accounts do.",
    (
        Row(
            "Now",
            (
                number("Countries with an exit", "count(country:nodes_serving:max > 0)"),
                number("Exits that serve", "sum(country:nodes_serving:max)"),
                number("Exits wished for", "sum(country:nodes_desired:max)"),
                number("Clients connected", "sum(vpnexit_gateway_open_connections)"),
                number("Alerts firing", 'count(ALERTS{alertstate="firing"}) or vector(0)'),
                number("Redis answers", "max(vpnexit_control_registry_up)", text="1: it does."),
            ),
        ),
        Row(
            "Countries",
            (
                lines("Exits that serve", "country:nodes_serving:max", "{{country}}"),
                lines("Exits that may be chosen", "country:nodes_healthy:sum", "{{country}}", text="By the scorer."),
                lines("Mean score", "country:score:avg", "{{country}}", "percentunit", largest=1.0),
                lines("Panic", "country:pool_panic:max", "{{country}}", text="1: too many are bad, bad ones are used."),
            ),
        ),
        Row(
            "Traffic",
            (
                lines("Connections ended", "country:connections:rate1m", "{{country}}", "cps"),
                lines("Bytes", "country_direction:bytes:rate1m", "{{country}} {{direction}}", "Bps"),
                lines("Clients refused", rate("vpnexit_gateway_refusals_total", "reason"), "{{reason}}", "cps"),
                lines("Sessions at HAProxy", 'haproxy_frontend_current_sessions{proxy="proxy"}', "{{instance}}"),
                lines("Gateways that HAProxy uses", 'haproxy_server_status{proxy="gateways",state="UP"}', "{{server}}"),
                lines("Age of what gateways know", "vpnexit_gateway_snapshot_age_seconds", "{{instance}}", "s"),
                lines("Exits that gateways can choose", "vpnexit_gateway_usable_nodes", "{{instance}}"),
            ),
        ),
        Row(
            "Accounts",
            (
                Panel(
                    "Sessions",
                    (
                        Query("max by (account) (vpnexit_control_account_slots_used)", "{{account}} in use"),
                        Query("max by (account) (vpnexit_control_account_slots)", "{{account}} all"),
                    ),
                ),
                lines(
                    "Rests for",
                    "max by (account) (vpnexit_control_account_resting_seconds)",
                    "{{account}}",
                    "s",
                    text="After a refusal of the provider no exit starts on an account for ten minutes.",
                ),
                lines(
                    "Provider's API: failures", rate("vpnexit_control_provider_errors_total", "reason"), "{{reason}}"
                ),
                lines("Provider's API: questions", rate("vpnexit_control_provider_requests_total"), "questions"),
            ),
        ),
        Row(
            "Control",
            (
                lines("Leads", "vpnexit_control_leader", "{{instance}}", text="One of them does."),
                lines(
                    "Steps done",
                    rate("vpnexit_control_steps_total", "step", '{outcome="done"}'),
                    "{{step}}",
                ),
                lines(
                    "Steps that came to nothing",
                    rate("vpnexit_control_steps_total", "step, outcome", '{outcome=~"failed|given_up"}'),
                    "{{step}} {{outcome}}",
                ),
                lines("Places that back off", "max by (country) (vpnexit_control_slots_waiting)", "{{country}}"),
                lines(
                    "Exits that failed",
                    rate("vpnexit_control_node_failures_total", "country") + " or vector(0)",
                    "{{country}}",
                ),
                lines("Rounds", rate("vpnexit_control_rounds_total", "instance, outcome"), "{{instance}} {{outcome}}"),
                quantiles("Time of a round", rate("vpnexit_control_round_seconds_bucket", "le")),
                lines("Requests to the API", rate("vpnexit_control_requests_total", "status"), "{{status}}", "reqps"),
            ),
        ),
        Row(
            "Health and processes",
            (
                lines("Scorer leads", "vpnexit_scorer_leader", "{{instance}}"),
                lines(
                    "Told, and not believed",
                    rate("vpnexit_scorer_ignored_total", "what, reason") + " or vector(0)",
                    "{{what}} {{reason}}",
                ),
                quantiles("Time of a scorer's round", rate("vpnexit_scorer_round_seconds_bucket", "le")),
                Panel(
                    "Since the last writing",
                    (
                        Query("time() - max(vpnexit_scorer_written_timestamp_seconds)", "scores"),
                        Query("time() - vpnexit_collector_round_timestamp_seconds", "samples {{instance}}"),
                    ),
                    "s",
                ),
                Panel(
                    "Redis did not answer",
                    (
                        Query(rate("vpnexit_scorer_redis_errors_total"), "scorer"),
                        Query(rate("vpnexit_collector_redis_errors_total"), "collector"),
                        Query(rate("vpnexit_control_rounds_total", where='{outcome="redis"}'), "control"),
                    ),
                ),
                lines("Descriptors open", "process_open_fds / process_max_fds", "{{job}} {{instance}}", "percentunit"),
                lines("CPU", "rate(process_cpu_seconds_total" + RATE + ")", "{{job}} {{instance}}", "percentunit"),
                lines("Memory", "process_resident_memory_bytes", "{{job}} {{instance}}", "bytes"),
                lines(
                    "Certificates end in",
                    "min by (file) (vpnexit_control_certificate_expiry_timestamp_seconds) - time()",
                    "{{file}}",
                    "s",
                    text="Those that control.certificates names.",
                ),
            ),
        ),
    ),
)
