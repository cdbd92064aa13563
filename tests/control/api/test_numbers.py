"""/metrics: pools, nodes, accounts, certificates, the engine."""

import os
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.control.api.conftest import Client, NewApi
from tests.control.test_certificates import YEAR_2027, certificate


async def read(api: Any) -> dict[tuple[str, ...], float]:
    """Values by name and labels, without the prefix, the labels in the order of their names."""
    text = await (await api.get("/metrics")).text()
    return {
        (sample.name.removeprefix("vpnexit_control_"), *(sample.labels[name] for name in sorted(sample.labels))): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_pools_nodes_and_accounts(api: Any, ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/jp", json={"desired": 1, "min": 1, "max": 3})
    await fleet.serving()
    found = await read(api)
    assert (found["min_nodes", "jp"], found["max_nodes", "jp"], found["slots_waiting", "jp"]) == (1, 3, 0)
    (node,) = await fleet.registry.nodes()
    assert found["node_status", "jp", "vpn", node, "serving"] == 1
    accounts = {key[1] for key in found if key[0] == "account_slots"}
    assert accounts
    assert sum(found["account_slots_used", name] for name in accounts) == 1
    assert all(found["account_resting_seconds", name] == 0 for name in accounts)
    assert found["engine_up",] == 1
    assert found["steps_total", "done", "Create"] >= 1
    assert found["rounds_total", "done"] >= 1
    assert found["round_seconds_count",] >= 1
    assert found["process_open_fds",] > 0


async def test_an_account_that_rests_and_slots_that_wait(api: Any, ask: Client, fleet: Any) -> None:
    await ask("PUT", "/api/pools/jp", json={"desired": 1})
    await fleet.serving()
    (account,) = {key[1] for key in await read(api) if key[0] == "account_slots"}
    await fleet.registry.accounts.rest(account, "AUTH_FAILED", 600)
    fleet.steps.backoff.wait("jp-0", fleet.world.clock(), 30)
    found = await read(api)
    assert 590 < found["account_resting_seconds", account] <= 600
    assert found["slots_waiting", "jp"] == 1


async def test_certificates(fleet: Any, new_api: NewApi, tmp_path: Path) -> None:
    await fleet.registry.begin_epoch()
    good, broken, missing = (tmp_path / name for name in ("edge.pem", "broken.pem", "missing.pem"))
    good.write_text(certificate(YEAR_2027))
    broken.write_bytes(os.urandom(64))
    api = await new_api(fleet, certificates=(good, broken, missing))
    found = await read(api)
    assert found["certificate_expiry_timestamp_seconds", str(good)] == YEAR_2027.timestamp()
    assert [found["certificate_readable", str(file)] for file in (good, broken, missing)] == [1, 0, 0]
    assert len([key for key in found if key[0] == "certificate_expiry_timestamp_seconds"]) == 1
