"""Alertmanager's file as shipped: valid, and alerts go where they should."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.prometheus.test_rules import rules
from tests.deploy.prometheus.watchers import Alertmanager, Webhook, until

FILE = Path(__file__).parents[3] / "deploy" / "alertmanager" / "alertmanager.yml"


def amtool(*arguments: str) -> str:
    done = subprocess.run(["amtool", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_valid() -> None:
    assert "SUCCESS" in amtool("check-config", str(FILE))


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_every_severity_reaches_the_operator(severity: str) -> None:
    told = amtool("config", "routes", "test", f"--config.file={FILE}", f"severity={severity}", "alertname=TargetDown")
    assert told.split() == ["operator"]


def test_what_is_critical_does_not_wait_for_warnings() -> None:
    route = yaml.safe_load(FILE.read_text())["route"]
    critical, _ = route["routes"]
    assert (critical["matchers"], critical["group_wait"], route["group_wait"]) == (['severity="critical"'], "5s", "30s")


def test_inhibitions_name_alerts_that_there_are() -> None:
    known = {rule["alert"] for rule in rules("alert")}
    for rule in yaml.safe_load(FILE.read_text())["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            names = matcher.split('"')[1].split("|")
            assert set(names) <= known, matcher


def test_the_token_comes_from_a_file() -> None:
    (receiver,) = yaml.safe_load(FILE.read_text())["receivers"]
    (webhook,) = receiver["webhook_configs"]
    assert webhook["http_config"] == {"authorization": {"credentials_file": "webhook.token"}}
    assert webhook["send_resolved"]


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    made = Webhook()
    yield made
    made.close()


@pytest.fixture
def alertmanager(tmp_path: Path, webhook: Webhook) -> Iterator[Alertmanager]:
    made = Alertmanager(tmp_path / "alertmanager", webhook, hurry=True)
    yield made
    made.close()


def alert(name: str, severity: str, **labels: str) -> dict[str, dict[str, str]]:
    return {"labels": {"alertname": name, "severity": severity, **labels}}


def test_a_country_without_exits_says_no_less_than_that(alertmanager: Alertmanager, webhook: Webhook) -> None:
    sent = [
        alert("CountryWithoutExit", "critical", country="jp"),
        alert("PoolBelowMin", "warning", country="jp"),
        alert("PoolPanic", "warning", country="jp"),
        alert("PoolBelowMin", "warning", country="us"),
    ]
    alertmanager.send(sent)
    until(lambda: webhook.told("firing", alertname="PoolBelowMin", country="us"), 45, "the warning is told")
    until(lambda: webhook.told("firing", alertname="CountryWithoutExit", country="jp"), 45, "what is critical is told")
    assert {(one["labels"]["alertname"], one["labels"]["country"]) for _, one in webhook.heard} == {
        ("CountryWithoutExit", "jp"),
        ("PoolBelowMin", "us"),
    }
    assert webhook.strangers == 0
