"""The state directory."""

from pathlib import Path

import pytest

from deploy.doctor import state
from deploy.doctor.model import Result
from deploy.doctor.state import Seen

MUCH = 10**12


def test_real_directories(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    (finding,) = state.judge(state.look(directory))
    assert (finding.result, finding.reason) == (Result.WARNING, f"{directory} is not there yet")
    directory.mkdir()
    (finding,) = state.judge(state.look(directory))
    assert finding.result is Result.OK
    (directory / "admin.password").write_text("x")
    (directory / "admin.password").chmod(0o644)
    (finding,) = state.judge(state.look(directory))
    assert (finding.result, finding.mend) == (Result.FAILED, f"chmod 600 {directory / 'admin.password'}")
    (tmp_path / "file").write_text("")
    (finding,) = state.judge(state.look(tmp_path / "file" / "state"))
    assert (finding.result, finding.reason) == (Result.FAILED, f"{tmp_path / 'file' / 'state'} cannot be made")


@pytest.mark.parametrize(
    ("seen", "result"),
    [
        (Seen(Path("/s"), True, True, MUCH, 0o600), Result.OK),
        (Seen(Path("/s"), True, False, MUCH), Result.FAILED),
        (Seen(Path("/s"), True, True, 1_000_000), Result.FAILED),
    ],
)
def test_judgements(seen: Seen, result: Result) -> None:
    (finding,) = state.judge(seen)
    assert finding.result is result
