"""Which state directory a process of vpnexit has."""

from pathlib import Path

import pytest

from deploy.doctor.ownership import state_dir_of
from deploy.ports import Holder

CONTROL = ("/opt/vpnexit/.venv/bin/python", "/opt/vpnexit/.venv/bin/vpnexit", "control")


@pytest.mark.parametrize(
    ("command", "environ", "found"),
    [
        (CONTROL, {"HOME": "/home/a"}, "/home/a/.local/state/vpnexit"),
        (CONTROL, {"HOME": "/home/a", "VPNEXIT_STATE_DIR": "~/x"}, "/home/a/x"),
        ((*CONTROL, "--state-dir", "here"), {"VPNEXIT_STATE_DIR": "/x"}, "/srv/here"),
        (("/usr/bin/python3", "-m", "gateway.supervisor"), {"VPNEXIT_STATE_DIR": "/x"}, "/x"),
        ((*CONTROL, "--config", "none.toml"), {"VPNEXIT_STATE_DIR": "/x"}, "/x"),
        (("/usr/sbin/nginx",), {"VPNEXIT_STATE_DIR": "/x"}, None),
        (("python", "-m", "http.server"), {}, None),
        ((), {}, None),
    ],
)
def test_of_command_and_environment(command: tuple[str, ...], environ: dict[str, str], found: str | None) -> None:
    told = state_dir_of(Holder(command, environ, Path("/srv")))
    assert (None if told is None else str(told)) == found


def test_of_the_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('state_dir = "kept"\n')
    assert state_dir_of(Holder((*CONTROL, "--config", "a.toml"), {}, tmp_path)) == tmp_path / "kept"
