"""Open files."""

import pytest

from deploy.doctor import descriptors
from deploy.doctor.descriptors import Limit
from deploy.doctor.model import Result


@pytest.mark.parametrize(
    ("hard", "result"),
    [(1_048_576, Result.OK), (20_000, Result.OK), (1024, Result.WARNING), (256, Result.FAILED), (10, Result.FAILED)],
)
def test_limits(hard: int, result: Result) -> None:
    (finding,) = descriptors.judge(Limit(hard))
    assert finding.result is result
    assert ("LimitNOFILE" in finding.mend) == (result is not Result.OK)


def test_this_process() -> None:
    assert 0 < descriptors.look().hard <= 1_048_576
