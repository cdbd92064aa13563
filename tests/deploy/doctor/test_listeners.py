"""Addresses that are free, ours, or somebody else's."""

import socket
from pathlib import Path
from typing import Any

import pytest

from control.config import ControlSettings
from deploy.config import Settings
from deploy.doctor import listeners
from deploy.doctor.listeners import Address
from deploy.doctor.model import Result
from gateway.config import GatewaySettings

KEY = ("gateway", "listen")


def test_a_taken_and_free_ones() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        gateway = GatewaySettings(listen=(f"127.0.0.1:{port}", "127.77.0.9:1080"), metrics_listen="127.77.0.9:9100")
        settings = Settings(gateway=gateway, control=ControlSettings(listen="127.77.0.9:8080"))
        seen = listeners.look(settings)
        first, *others = listeners.judge(seen)
    assert (first.check, first.result) == (f"address 127.0.0.1:{port}", Result.FAILED)
    assert first.reason.startswith("the port is taken by ")
    assert first.mend == "end that program, or change gateway.listen (VPNEXIT_GATEWAY__LISTEN)"
    assert [finding.result for finding in others] == [Result.OK] * 3


def test_an_address_of_another_machine() -> None:
    (finding,) = listeners.judge(
        [Address("198.18.0.1:8080", ("control", "listen"), "198.18.0.1 is no address of this machine")]
    )
    assert (finding.result, finding.meaning) == (Result.FAILED, "Control does not start.")


OWN = Path("/var/lib/vpnexit")


@pytest.mark.parametrize(
    ("program", "state_dir", "result"),
    [
        ("python", OWN, Result.OK),
        ("python", Path("/home/somebody/state"), Result.FAILED),
        ("haproxy", None, Result.FAILED),
        ("", None, Result.WARNING),
    ],
)
def test_whose_it_is(program: str, state_dir: Path | None, result: Result) -> None:
    seen = Address("127.0.0.1:3128", KEY, "the port is taken by somebody", program, state_dir, OWN)
    (finding,) = listeners.judge([seen])
    assert finding.result is result
    assert ("another vpnexit" in finding.reason) is (state_dir not in (None, OWN))


def test_another_vpnexit_is_not_ours(running: Any, tmp_path: Path) -> None:
    address = running.address
    gateway = GatewaySettings(listen=(f"{address}:3128", f"{address}:1080"), metrics_listen=f"{address}:9100")
    settings = Settings(gateway=gateway, control=ControlSettings(listen=f"{address}:8080"), state_dir=running.state_dir)
    assert [one.result for one in listeners.judge(listeners.look(settings))] == [Result.OK] * 4
    other = settings.model_copy(update={"state_dir": tmp_path})
    found = list(listeners.judge(listeners.look(other)))
    assert [one.result for one in found] == [Result.FAILED] * 4
    assert all(f"another vpnexit with state directory {running.state_dir}" in one.reason for one in found)
