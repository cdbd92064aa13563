"""Every rule as shipped, run by promtool: fires when it should, and not otherwise."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.prometheus.cases import ALERTS, RECORDED, Case

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"
FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))


def rules(kind: str) -> list[dict[str, Any]]:
    """All rules as shipped that are of a kind: "alert" or "record"."""
    groups = [group for file in FILES for group in yaml.safe_load(file.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False)


def run(directory: Path, tests: Sequence[dict[str, Any]]) -> str:
    """What promtool says of `tests`; empty where all hold."""
    file = directory / "tests.yml"
    # JSON is YAML.
    file.write_text(
        json.dumps({"rule_files": [str(file) for file in FILES], "evaluation_interval": "5s", "tests": tests})
    )
    done = promtool("test", "rules", str(file))
    return "" if done.returncode == 0 else done.stdout + done.stderr


def series(given: dict[str, str]) -> list[dict[str, str]]:
    return [{"series": name, "values": values} for name, values in given.items()]


def as_test(case: Case) -> dict[str, Any]:
    wanted = {"alertname": case.alert, "alertstate": "firing", **case.labels}
    by = ", ".join(sorted(wanted))
    expression = f'count by ({by}) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})'
    labels = "{" + ", ".join(f'{name}="{value}"' for name, value in sorted(wanted.items())) + "}"
    checks = [
        {"expr": expression, "eval_time": at, "exp_samples": [{"labels": labels, "value": 1}]} for at in case.fires
    ]
    checks += [{"expr": expression, "eval_time": at, "exp_samples": []} for at in case.quiet]
    return {"name": case.alert, "interval": "5s", "input_series": series(case.series), "promql_expr_test": checks}


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    place = tmp_path / "prometheus"
    shutil.copytree(PROMETHEUS, place)
    for name in ("api.token", "metrics.token"):
        (place / name).touch()
    done = promtool("check", "config", str(place / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid prometheus config file" in done.stdout
    assert f"{len(rules('alert'))} rules found" in done.stdout


def test_every_target_file_has_its_job() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    named = {job["job_name"] for job in config["scrape_configs"] if "file_sd_configs" in job} | {"alertmanager"}
    assert {file.stem for file in (PROMETHEUS / "targets").iterdir()} == named
    for file in (PROMETHEUS / "targets").iterdir():
        assert yaml.safe_load(file.read_text())[0]["targets"]


def test_every_rule_has_its_cases() -> None:
    assert {case.alert for case in ALERTS if case.fires} == {rule["alert"] for rule in rules("alert")}
    assert {case.alert for case in ALERTS if case.quiet} == {rule["alert"] for rule in rules("alert")}
    assert {case.rule for case in RECORDED} == {rule["record"] for rule in rules("record")}


@pytest.mark.parametrize("case", ALERTS, ids=[f"{case.alert}-{number}" for number, case in enumerate(ALERTS)])
def test_alerts_fire_when_they_should_and_not_otherwise(case: Case, tmp_path: Path) -> None:
    assert run(tmp_path, [as_test(case)]) == ""


def test_recording_rules(tmp_path: Path) -> None:
    tests = [
        {
            "interval": "5s",
            "input_series": series(case.series),
            "promql_expr_test": [
                {
                    "expr": case.rule,
                    "eval_time": case.at,
                    "exp_samples": [
                        {"labels": case.rule + labels, "value": value} for labels, value in case.samples.items()
                    ],
                }
            ],
        }
        for case in RECORDED
    ]
    assert run(tmp_path, tests) == ""


@pytest.mark.parametrize("rule", rules("alert"), ids=[rule["alert"] for rule in rules("alert")])
def test_an_alert_says_what_it_is_and_what_to_do(rule: dict[str, Any], tmp_path: Path) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
    case = next(case for case in ALERTS if case.alert == rule["alert"] and case.fires)
    # Expecting none makes promtool print what there is, with its templates filled in.
    nothing = [{"alertname": case.alert, "eval_time": case.fires[0], "exp_alerts": []}]
    told = run(tmp_path, [{"interval": "5s", "input_series": series(case.series), "alert_rule_test": nothing}])
    summary = re.search(r'summary="((?:[^"\\]|\\.)*)"', told)
    assert summary is not None, told
    assert not re.search(r"<no value>|<error|\{\{", summary[1]), told
    assert "<error" not in told
    for name in ("country", "account", "file", "instance"):
        if name in case.labels:
            assert case.labels[name] in summary[1]


def test_a_wrong_rule_would_be_seen(tmp_path: Path) -> None:
    wrong = Case("CountryWithoutExit", ALERTS[0].series, fires=("25s",))
    assert "FAILED" in run(tmp_path, [as_test(wrong)])
