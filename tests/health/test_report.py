"""What a gateway worker may tell."""

import json
from typing import Any

import pytest

from health.model import UnknownSchemaError
from health.report import MOST_NODES, Counts, Report

GOOD = Report(worker="0" * 16, gateway="m1:7", nodes={"jp000001": Counts(reached=3, dial_ms=150.5, quickest_ms=40.0)})


def test_it_is_stored_and_read_back() -> None:
    assert Report.load(GOOD.dump()) == GOOD


@pytest.mark.parametrize(
    "lie",
    [
        [-1, 0, 0, 0, 0, 0, 0, 0, None],
        [1, 0, 0, 0, -0.1, 0, 0, 0, None],
        [1, 0, 0, 0, 1e300, 0, 0, 0, None],
        [2**60, 0, 0, 0, 0, 0, 0, 0, None],
        [1, 0, 0, 0, 0, 0, 0, 0, -1.0],
        [1, 0, 0, 0, 0, 0, 0, 0, None, -1],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "x",
    ],
)
def test_what_cannot_be_is_refused(lie: Any) -> None:
    told = json.loads(GOOD.dump()) | {"nodes": {"jp000001": lie}}
    with pytest.raises(UnknownSchemaError):
        Report.load(json.dumps(told))
    with pytest.raises(UnknownSchemaError):
        Report.load(GOOD.dump().replace("150.5", "NaN"))


def test_it_is_bounded_and_names_nodes() -> None:
    counts = list(Counts())
    for nodes in ({f"jp{n:06x}": counts for n in range(MOST_NODES + 1)}, {"nonsense": counts}):
        with pytest.raises(UnknownSchemaError):
            Report.load(json.dumps(json.loads(GOOD.dump()) | {"nodes": nodes}))
    full = Report(worker="0" * 16, gateway="m1:7", nodes={f"jp{n:06x}": Counts() for n in range(MOST_NODES)})
    assert len(full.dump()) < 64 * 1024
