"""Real Prometheus and Alertmanager over the lab: all is scraped, dashboards have data, alerts reach a webhook."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deploy.lab import world
from health.registry import Registry
from tests.deploy.grafana.queries import queries, variables
from tests.deploy.prometheus.watchers import Prometheus, Webhook, until, watching
from tests.lab.harness import Lab
from tests.lab.test_samples import TAKES_NOTHING, dropping, settled

# An exit that dies is replaced in less; what fires does so because nothing can replace it.
COUNTRY, SERVERS = "us", ("us1", "us2")


@dataclass(frozen=True)
class Watched:
    lab: Lab
    prometheus: Prometheus
    webhook: Webhook


@pytest.fixture(scope="module")
def watch(running_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    token = running_lab.api("POST", "/api/tokens", {"name": "prometheus", "scope": "read"})
    try:
        directory = tmp_path_factory.mktemp("watch")
        with watching(directory, running_lab.status["metrics"], token["token"]) as (prometheus, webhook):
            yield Watched(running_lab, prometheus, webhook)
    finally:
        running_lab.api("DELETE", f"/api/tokens/{token['id']}")


@pytest.fixture
def calm(watch: Watched, lab: Lab) -> Watched:
    """Everything serves, and nothing fires."""
    until(lambda: len(watch.prometheus.query("country:nodes_serving:max")) == 3, 60, "the fleet is scraped")
    until(lambda: not watch.prometheus.firing(), 120, "no alert fires")
    return watch


def test_everything_is_scraped(calm: Watched) -> None:
    def all_up() -> bool:
        return all(target["health"] == "up" for target in calm.prometheus.targets())

    until(all_up, 60, "all targets are up")
    jobs = [target["labels"]["job"] for target in calm.prometheus.targets()]
    assert sorted(jobs) == sorted(["gateway", "gateway", "control", "scorer", "collector", "haproxy", "prometheus"])

    def serving() -> dict[str, str]:
        found = calm.prometheus.query("country:nodes_serving:max")
        return {one["metric"]["country"]: one["value"][1] for one in found}

    until(lambda: serving() == {"jp": "2", "us": "1", "gb": "1"}, 60, "what serves is told")


def test_no_series_grows_with_users_or_targets(calm: Watched) -> None:
    labels = {label for one in calm.prometheus.query('{__name__=~"vpnexit_.*"}') for label in one["metric"]}
    assert labels <= {
        *("__name__", "instance", "job", "country", "node", "reason", "direction", "le", "status", "kind", "account"),
        *("operation", "granted", "step", "outcome", "term", "file", "what"),
    }


def test_every_query_of_every_dashboard_has_data(calm: Watched) -> None:
    lab, prometheus = calm.lab, calm.prometheus
    chosen = {
        "country": "jp",
        "node": lab.node_of("jp"),  # a WireGuard exit: others have no handshake
        "gateway": lab.status["metrics"]["gateway"][0],
    }
    for name, (metric, label) in variables().items():
        until(lambda at=(name, metric, label): chosen[at[0]] in prometheus.values(*at[1:]), 60, name)
    wrong = lab.proxy("jp").replace(lab.status["proxy"]["password"], "wrong")
    proxies = [lab.proxy("jp"), lab.proxy("jp", extra=f"-node-{chosen['node']}")]
    missing: list[str] = []

    def answered() -> bool:
        # Rates need something to happen between two scrapes, at both gateways.
        for proxy in proxies * 2:
            assert lab.curl(proxy).returncode == 0
        lab.curl(lab.proxy("jp"), lab.status["whoami"].rstrip("/") + ":81/")  # the target's fault
        lab.curl(wrong)
        missing[:] = [name for name, expr in queries(chosen) if not prometheus.query(expr)]
        return not missing

    try:
        until(answered, 90, "all queries have data")
    except AssertionError:
        raise AssertionError(f"no data: {missing}") from None


def test_a_country_that_dies_is_told_and_so_is_its_return(calm: Watched) -> None:
    lab, webhook = calm.lab, calm.webhook
    labels = {"alertname": "CountryWithoutExit", "country": COUNTRY}
    assert not webhook.told("firing", **labels)
    try:
        for server in SERVERS:
            lab.command("stop", server)
        for node in lab.nodes(COUNTRY):
            lab.docker("kill", f"vpnexit-{node}")
        killed = time.monotonic()
        until(lambda: webhook.told("firing", **labels), 120, "the alert reaches the webhook")
        told = webhook.told("firing", **labels)[0] - killed
        (summary,) = {
            one["annotations"]["summary"] for _, one in webhook.heard if labels.items() <= one["labels"].items()
        }
        assert summary == f"No exit serves in {COUNTRY}: clients that want it get an error"
    finally:
        mended = time.monotonic()
        for server in SERVERS:
            lab.command("start", server)
    until(lambda: lab.nodes(COUNTRY), 120, "an exit serves again")
    serving = time.monotonic() - mended
    until(lambda: webhook.told("resolved", **labels), 120, "its end reaches the webhook")
    resolved = webhook.told("resolved", **labels)[0] - mended
    assert not webhook.strangers
    assert {one["labels"].get("country") for _, one in webhook.heard} <= {COUNTRY, None}
    print(f"told after {told:.1f} s; mended: an exit after {serving:.1f} s, told after {resolved:.1f} s")


async def test_a_pool_at_its_limit_is_told_and_so_is_its_recovery(calm: Watched, registry: Registry) -> None:
    """Both exits of a country lose most of their probes, and stay up: one may be left out, the other is used."""
    lab, prometheus, webhook = calm.lab, calm.prometheus, calm.webhook
    labels = {"alertname": "PoolPanic", "country": "jp"}
    panic = '{__name__=~"vpnexit_(scorer|gateway)_pool_panic",country="jp"}'
    # An exit that has served for ten minutes is replaced when it was unwell for one.
    lab.wish("jp", 0)
    until(lambda: not lab.nodes("jp"), 30, "the old exits are gone")
    lab.wish("jp", 2)
    until(lambda: len(lab.nodes("jp")) == 2 and lab.settled(), 60, "new ones serve")
    nodes = lab.nodes("jp")
    for node in nodes:
        await settled(registry, node)
    until(lambda: {one["value"][1] for one in prometheus.query(panic)} == {"0"}, 30, "no panic")
    # Three of five whom an exit asks: a tunnel is down where nobody answers.
    lossy = f"ip daddr {{ {world.WHOAMI}, {world.TUNNEL_DNS[1]} }} numgen random mod 10 < 7 drop"
    with contextlib.ExitStack() as stack:
        for server in (one for one in world.SERVERS if one.country == "jp"):
            stack.enter_context(dropping(lab, server.name, TAKES_NOTHING, lossy))
        began = time.monotonic()
        until(lambda: {one["value"][1] for one in prometheus.query(panic)} == {"1"}, 60, "scorer and gateways say so")
        seen = time.monotonic() - began
        until(lambda: webhook.told("firing", **labels), 120, "the alert reaches the webhook")
        told = webhook.told("firing", **labels)[0] - began
        assert ("PoolPanic", "jp") in prometheus.firing()
        assert lab.nodes("jp") == nodes
        assert {node["health_status"] for node in lab.api("GET", "/api/nodes") if node["id"] in nodes} == {"unhealthy"}
        run = lab.curl(lab.proxy("jp"), f"http://{world.API}/v1/technologies", "-o", "/dev/null", "-w", "%{http_code}")
        assert run.stdout == "200", run.stderr
    mended = time.monotonic()
    until(lambda: webhook.told("resolved", **labels), 120, "its end reaches the webhook")
    resolved = webhook.told("resolved", **labels)[0] - mended
    assert {one["value"][1] for one in prometheus.query(panic)} == {"0"}
    (summary,) = {one["annotations"]["summary"] for _, one in webhook.heard if labels.items() <= one["labels"].items()}
    assert summary == "More than half of the exits of jp are bad: bad ones are used all the same"
    print(f"seen after {seen:.1f} s, told after {told:.1f} s; mended: told after {resolved:.1f} s")
