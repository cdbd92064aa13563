"""Addresses that are free, ours, or somebody else's."""

import socket

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


@pytest.mark.parametrize(
    ("command", "result"),
    [
        (("/opt/vpnexit/.venv/bin/python", "/opt/vpnexit/.venv/bin/vpnexit", "control"), Result.OK),
        (("/usr/bin/python3", "-m", "deploy.cli", "gateway"), Result.OK),
        (("/usr/sbin/haproxy", "-W", "-f", "haproxy.cfg"), Result.OK),
        (("/usr/sbin/nginx",), Result.FAILED),
        (("python", "-m", "http.server"), Result.FAILED),
        ((), Result.WARNING),
    ],
)
def test_whose_it_is(command: tuple[str, ...], result: Result) -> None:
    (finding,) = listeners.judge([Address("127.0.0.1:3128", KEY, "the port is taken by somebody", command)])
    assert finding.result is result
