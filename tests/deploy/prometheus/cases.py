"""What each rule makes of which series, for promtool: when an alert fires, and when it does not.

A series is one value per 5 s in promtool's notation: `1x6 0x60` is seven ones, then 61 zeros; `0+5x60` rises by 5.
"""

from dataclasses import dataclass, field

CONTROL = 'instance="a:8080",job="control"'
OTHER = 'instance="b:8080",job="control"'
GATEWAY = 'instance="a:9100",job="gateway"'
SCORER = 'instance="a:9101",job="scorer"'
COLLECTOR = 'instance="a:9102",job="collector"'


@dataclass(frozen=True)
class Case:
    """`alert` fires at the moments of `fires`, with `labels` among its own, and is silent at those of `quiet`."""

    alert: str
    series: dict[str, str]
    fires: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


def pool(serving: str, desired: str = "2x300", least: str = "1x300", country: str = "jp") -> dict[str, str]:
    return {
        f'vpnexit_control_serving_nodes{{country="{country}",{CONTROL}}}': serving,
        f'vpnexit_control_desired_nodes{{country="{country}",{CONTROL}}}': desired,
        f'vpnexit_control_min_nodes{{country="{country}",{CONTROL}}}': least,
    }


def certificate(seconds_left: int) -> dict[str, str]:
    """promtool's clock starts at 0: `seconds_left` from there."""
    return {
        f'vpnexit_control_certificate_expiry_timestamp_seconds{{file="/etc/edge.pem",{CONTROL}}}': f"{seconds_left}x300"
    }


DAY = 86400
ALERTS = [
    Case(
        "CountryWithoutExit",
        pool("2x6 0x300"),
        ("1m10s", "5m"),
        ("25s", "55s"),
        {"country": "jp", "severity": "critical"},
    ),
    Case("CountryWithoutExit", pool("0x300", desired="0x300"), quiet=("5m",)),
    Case("CountryWithoutExit", pool("1x300"), quiet=("5m",)),
    Case("CountryWithoutExit", pool("0x4 1x300"), quiet=("20s", "5m")),
    Case(
        "PoolBelowMin", pool("1x300", least="2x300"), ("2m10s",), ("1m50s",), {"country": "jp", "severity": "warning"}
    ),
    Case("PoolBelowMin", pool("2x300", least="2x300"), quiet=("10m",)),
    Case("PoolBelowMin", pool("0x300", desired="0x300", least="1x300"), quiet=("10m",)),
    Case(
        "PoolPanic",
        {f'vpnexit_scorer_pool_panic{{country="jp",{SCORER}}}': "0x6 1x300"} | pool("2x300"),
        ("2m",),
        ("30s", "1m10s"),
        {"country": "jp", "severity": "warning"},
    ),
    Case(
        "PoolPanic",
        {f'vpnexit_gateway_pool_panic{{country="jp",{GATEWAY}}}': "0x6 1x300"} | pool("2x300"),
        ("2m",),
        ("30s", "1m10s"),
        {"country": "jp", "severity": "warning"},
    ),
    Case("PoolPanic", pool("2x300"), quiet=("5m",)),
    Case(
        "AccountSlotsExhausted",
        {
            f'vpnexit_control_account_slots_used{{account="main",{CONTROL}}}': "10x300",
            f'vpnexit_control_account_slots{{account="main",{CONTROL}}}': "10x300",
        },
        ("10m10s",),
        ("9m50s",),
        {"account": "main", "severity": "warning"},
    ),
    Case(
        "AccountSlotsExhausted",
        {
            f'vpnexit_control_account_slots_used{{account="main",{CONTROL}}}': "9x300",
            f'vpnexit_control_account_slots{{account="main",{CONTROL}}}': "10x300",
        },
        quiet=("20m",),
    ),
    Case(
        "AccountResting",
        {f'vpnexit_control_account_resting_seconds{{account="main",{CONTROL}}}': "0x6 600-5x100 0x100"},
        ("1m30s",),
        ("30s", "12m"),
        {"account": "main", "severity": "warning"},
    ),
    Case(
        "SnapshotStale",
        {f"vpnexit_gateway_snapshot_age_seconds{{{GATEWAY}}}": "0x6 0+5x300"},
        ("2m",),
        ("30s", "1m"),
        {"instance": "a:9100", "severity": "warning"},
    ),
    Case("SnapshotStale", {f"vpnexit_gateway_snapshot_age_seconds{{{GATEWAY}}}": "1x300"}, quiet=("5m",)),
    Case(
        "GatewayNearDescriptorLimit",
        {
            f"vpnexit_gateway_descriptors_open{{{GATEWAY}}}": "18000x300",
            f"vpnexit_gateway_descriptors_limit{{{GATEWAY}}}": "20000x300",
        },
        ("1m10s",),
        ("50s",),
        {"instance": "a:9100", "severity": "warning"},
    ),
    Case(
        "GatewayNearDescriptorLimit",
        {
            f"vpnexit_gateway_descriptors_open{{{GATEWAY}}}": "0x300",
            f"vpnexit_gateway_descriptors_limit{{{GATEWAY}}}": "0x300",
        },
        quiet=("5m",),
    ),
    Case(
        "GatewayWorkerRestarting",
        {f"vpnexit_gateway_worker_restarts_total{{{GATEWAY}}}": "0x6 1x6 2x6 3x300"},
        ("3m",),
        ("1m", "20m"),
        {"instance": "a:9100", "severity": "warning"},
    ),
    Case(
        "GatewayWorkerRestarting", {f"vpnexit_gateway_worker_restarts_total{{{GATEWAY}}}": "0x6 1x300"}, quiet=("3m",)
    ),
    Case(
        "LogLinesDropped",
        {f"vpnexit_gateway_log_lines_dropped_total{{{GATEWAY}}}": "0x6 7x300"},
        ("3m",),
        ("30s", "15m"),
        {"instance": "a:9100", "severity": "warning"},
    ),
    Case(
        "ControlWithoutLeader",
        {f"vpnexit_control_leader{{{CONTROL}}}": "1x6 0x300", f"vpnexit_control_leader{{{OTHER}}}": "0x300"},
        ("1m10s",),
        ("30s", "50s"),
        {"severity": "critical"},
    ),
    Case(
        "ControlWithoutLeader",
        {f"vpnexit_control_leader{{{CONTROL}}}": "1x6 0x300", f"vpnexit_control_leader{{{OTHER}}}": "0x8 1x300"},
        quiet=("5m",),
    ),
    Case(
        "RedisUnreachable",
        {f"vpnexit_control_registry_up{{{CONTROL}}}": "1x6 0x300"},
        ("1m",),
        ("30s", "45s"),
        {"severity": "critical"},
    ),
    Case(
        "RedisUnreachable",
        {f"vpnexit_control_registry_up{{{CONTROL}}}": "0x300", f"vpnexit_control_registry_up{{{OTHER}}}": "1x300"},
        quiet=("5m",),
    ),
    Case(
        "EngineUnreachable",
        {f"vpnexit_control_engine_up{{{CONTROL}}}": "1x6 0x300"},
        ("2m",),
        ("30s", "1m20s"),
        {"instance": "a:8080", "severity": "critical"},
    ),
    Case(
        "ReconcilerFailing",
        {f'vpnexit_control_rounds_total{{outcome="broke",{CONTROL}}}': "0x6 0+1x6 6x300"},
        ("1m",),
        ("30s", "10m"),
        {"instance": "a:8080", "severity": "warning"},
    ),
    Case(
        "ReconcilerFailing",
        {f'vpnexit_control_rounds_total{{outcome="redis",{CONTROL}}}': "0+1x300"},
        quiet=("5m",),
    ),
    Case(
        "ProviderApiFailing",
        {
            f'vpnexit_control_provider_errors_total{{reason="timeout",{CONTROL}}}': "0+1x300",
            f"vpnexit_control_provider_requests_total{{{CONTROL}}}": "0+1x300",
        },
        ("5m",),
        ("10s",),
        {"severity": "warning"},
    ),
    Case(
        "ProviderApiFailing",
        {
            f'vpnexit_control_provider_errors_total{{reason="timeout",{CONTROL}}}': "0+1x300",
            f"vpnexit_control_provider_requests_total{{{CONTROL}}}": "0+10x300",
        },
        quiet=("10m",),
    ),
    Case(
        "ScorerWithoutLeader",
        {f"vpnexit_scorer_leader{{{SCORER}}}": "1x6 0x300"},
        ("1m10s",),
        ("30s", "50s"),
        {"severity": "critical"},
    ),
    Case("ScorerWithoutLeader", {"up": "1x300"}, ("1m",), ("10s",), {"severity": "critical"}),
    Case("ScorerWithoutLeader", {f"vpnexit_scorer_leader{{{SCORER}}}": "1x300"}, quiet=("5m",)),
    Case(
        "SamplesStale",
        {f"vpnexit_collector_round_timestamp_seconds{{{COLLECTOR}}}": "0+5x12 60x300"},
        ("2m",),
        ("1m", "1m10s"),
        {"instance": "a:9102", "severity": "warning"},
    ),
    Case(
        "TargetDown",
        {f"up{{{GATEWAY}}}": "1x6 0x300"},
        ("1m10s",),
        ("30s", "50s"),
        {"job": "gateway", "severity": "critical"},
    ),
    Case("TargetDown", {f"up{{{GATEWAY}}}": "1x300"}, quiet=("5m",)),
    Case(
        "CertificateEndsSoon",
        certificate(13 * DAY),
        ("2m",),
        ("30s",),
        {"file": "/etc/edge.pem", "severity": "warning"},
    ),
    Case("CertificateEndsSoon", certificate(15 * DAY), quiet=("5m",)),
    Case("CertificateEndsNow", certificate(DAY), ("1m",), (), {"file": "/etc/edge.pem", "severity": "critical"}),
    Case("CertificateEndsNow", certificate(3 * DAY), quiet=("5m",)),
    Case(
        "CertificateUnreadable",
        {f'vpnexit_control_certificate_readable{{file="/etc/edge.pem",{CONTROL}}}': "1x6 0x300"},
        ("2m",),
        ("30s", "1m20s"),
        {"file": "/etc/edge.pem", "severity": "warning"},
    ),
]


@dataclass(frozen=True)
class Recorded:
    """What `rule` is at `at`, by its labels."""

    rule: str
    series: dict[str, str]
    at: str
    samples: dict[str, float]


def node(name: str, node_id: str, value: str, instance: str = SCORER) -> dict[str, str]:
    return {f'vpnexit_scorer_{name}{{country="jp",node="{node_id}",{instance}}}': value}


TWO_CONTROLS = {
    f'vpnexit_control_{name}_nodes{{country="jp",{instance}}}': f"{number}x10"
    for name, number in (("serving", 2), ("desired", 3), ("min", 1))
    for instance in (CONTROL, OTHER)
}
DIALS = {
    f'vpnexit_gateway_{name}_seconds_bucket{{country="jp",le="0.1",instance="{host}:9100"}}': "0+5x100"
    for name in ("dial", "first_byte")
    for host in "ab"
}
RECORDED = [
    Recorded("country:nodes_serving:max", TWO_CONTROLS, "30s", {'{country="jp"}': 2}),
    Recorded("country:nodes_desired:max", TWO_CONTROLS, "30s", {'{country="jp"}': 3}),
    Recorded("country:nodes_min:max", TWO_CONTROLS, "30s", {'{country="jp"}': 1}),
    Recorded(
        "country:nodes_healthy:sum",
        node("node_healthy", "jp000001", "1x10")
        | node("node_healthy", "jp000002", "0x10")
        # The same node, by a scorer that has just taken over.
        | node("node_healthy", "jp000001", "1x10", 'instance="b:9101"'),
        "30s",
        {'{country="jp"}': 1},
    ),
    Recorded(
        "country:score:avg",
        node("score_ratio", "jp000001", "0.9x10") | node("score_ratio", "jp000002", "0.5x10"),
        "30s",
        {'{country="jp"}': 0.7},
    ),
    Recorded("country:pool_panic:max", TWO_CONTROLS, "30s", {'{country="jp"}': 0}),
    Recorded(
        "country:pool_panic:max",
        TWO_CONTROLS | {f'vpnexit_scorer_pool_panic{{country="jp",{SCORER}}}': "1x10"},
        "30s",
        {'{country="jp"}': 1},
    ),
    Recorded(
        "country:pool_panic:max",
        TWO_CONTROLS
        | {
            f'vpnexit_scorer_pool_panic{{country="jp",{SCORER}}}': "0x10",
            f'vpnexit_gateway_pool_panic{{country="jp",{GATEWAY}}}': "1x10",
        },
        "30s",
        {'{country="jp"}': 1},
    ),
    Recorded(
        "account:slots_used:ratio",
        {
            f'vpnexit_control_account_slots_used{{account="main",{CONTROL}}}': "4x10",
            f'vpnexit_control_account_slots{{account="main",{CONTROL}}}': "10x10",
            f'vpnexit_control_account_slots{{account="main",{OTHER}}}': "10x10",
        },
        "30s",
        {'{account="main"}': 0.4},
    ),
    Recorded(
        "country:connections:rate1m",
        {
            f'vpnexit_gateway_connections_total{{country="jp",node="jp000001",reason="ok",{GATEWAY}}}': "0+5x100",
            f'vpnexit_gateway_connections_total{{country="jp",node="jp000002",reason="refused",{GATEWAY}}}': "0+10x100",
        },
        "5m",
        {'{country="jp"}': 3},
    ),
    Recorded(
        "country_direction:bytes:rate1m",
        {
            f'vpnexit_gateway_bytes_total{{country="jp",direction="up",node="jp000001",{GATEWAY}}}': "0+50x100",
            f'vpnexit_gateway_bytes_total{{country="jp",direction="down",node="jp000001",{GATEWAY}}}': "0+500x100",
        },
        "5m",
        {'{country="jp",direction="up"}': 10, '{country="jp",direction="down"}': 100},
    ),
    Recorded("country_le:dial_seconds_bucket:rate5m", DIALS, "6m", {'{country="jp",le="0.1"}': 2}),
    Recorded("country_le:first_byte_seconds_bucket:rate5m", DIALS, "6m", {'{country="jp",le="0.1"}': 2}),
    Recorded(
        "instance:descriptors:ratio",
        {
            f"vpnexit_gateway_descriptors_open{{{GATEWAY}}}": "500x10",
            f"vpnexit_gateway_descriptors_limit{{{GATEWAY}}}": "1000x10",
        },
        "30s",
        {f"{{{GATEWAY}}}": 0.5},
    ),
]
