"""What a supervisor reads, and how it asks for a new one."""

import json
import os
import sys
from dataclasses import asdict, replace

import pytest

from gateway import plan as module
from gateway.plan import Plan, PlanError, ask_anew

PLAN = Plan(["127.0.0.1:1"], "127.0.0.1:2", 2, 1.0, "info", [], {"any": "thing"})


def asking(code: str) -> Plan:
    return replace(PLAN, reload=[sys.executable, "-c", code])


def test_the_number_of_workers_is_that_of_usable_cores() -> None:
    text = json.dumps(asdict(replace(PLAN, workers=0))).encode()
    assert Plan.read(text).workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("text", [b"", b"{}", b"null", b'{"workers": 1, "unknown": 1}'])
def test_what_is_not_understood_says_what_to_do(text: bytes) -> None:
    with pytest.raises(PlanError, match="stop the gateway and start it instead"):
        Plan.read(text)


async def test_a_new_plan_is_what_the_command_writes() -> None:
    told = json.dumps(asdict(replace(PLAN, workers=5)))
    script = """
import json, os, sys
plan = json.loads(sys.argv[1])
plan["worker"] = {"filler": "x" * 500_000}
os.fdopen(int(sys.argv[2]), "w").write(json.dumps(plan))
"""
    plan = await ask_anew(replace(PLAN, reload=[sys.executable, "-c", script, told]))
    assert plan.workers == 5
    assert plan.worker == {"filler": "x" * 500_000}  # more than a pipe holds


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import sys; sys.exit('vpnexit: wrong configuration: gateway.listen')", "wrong configuration: gateway.listen"),
        ("import os; os._exit(3)", "it was not said what is wrong"),
        ("pass", "the plan is not understood"),
    ],
)
async def test_without_a_plan_the_reason_is_the_last_word(script: str, why: str) -> None:
    with pytest.raises(PlanError, match=why):
        await ask_anew(asking(script))


async def test_a_command_that_is_not_there() -> None:
    with pytest.raises(PlanError, match="cannot run /nonexistent: No such file or directory"):
        await ask_anew(replace(PLAN, reload=["/nonexistent"]))


async def test_a_command_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN_S", 0.3)
    with pytest.raises(PlanError, match="not read within"):
        await ask_anew(asking("import time; time.sleep(60)"))
