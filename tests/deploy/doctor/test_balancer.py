"""HAProxy: the real program on our configuration and on a broken one; its socket by a stand-in."""

import os
import shutil
import socket
import threading
from pathlib import Path

import pytest

from deploy.doctor import balancer
from deploy.doctor.balancer import Seen
from deploy.doctor.model import Result

STATISTICS = """# pxname,svname,qcur,status,
proxy,FRONTEND,,OPEN,
gateways,gateway1,0,{},
gateways,gateway2,0,DOWN,
gateways,BACKEND,0,UP,
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    assert shutil.which("haproxy", path="/usr/sbin:/usr/bin"), "haproxy is missing: install Debian's haproxy"
    return {"PATH": os.environ["PATH"], "VPNEXIT_HAPROXY_SOCKET": str(tmp_path / "haproxy.sock")}


def test_our_configuration_is_valid(environ: dict[str, str]) -> None:
    first, second = balancer.judge(balancer.look(environ=environ))
    assert (first.result, second.result) == (Result.OK, Result.SKIPPED)
    assert first.reason.startswith("version 2.")


def test_a_broken_configuration(environ: dict[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "haproxy.cfg"
    broken.write_text("frontend x\n  bind nonsense\n")
    finding = next(balancer.judge(balancer.look(broken, environ)))
    assert finding.result is Result.FAILED
    assert str(broken) in finding.reason
    assert "[ALERT]" not in finding.reason


def test_a_variable_that_is_wrong(environ: dict[str, str]) -> None:
    finding = next(balancer.judge(balancer.look(environ=environ | {"VPNEXIT_HAPROXY_HTTP_PORT": "many"})))
    assert finding.result is Result.FAILED


def test_not_installed(tmp_path: Path) -> None:
    (finding,) = balancer.judge(Seen())
    assert finding.result is Result.SKIPPED


def test_gateways_by_the_socket(environ: dict[str, str], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(environ["VPNEXIT_HAPROXY_SOCKET"])
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"show stat\n"
                connection.sendall(STATISTICS.format("UP").encode())

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        seen = balancer.look(environ=environ)
        thread.join(5)
    assert seen.up == {"gateway1": True, "gateway2": False}


@pytest.mark.parametrize(
    ("up", "result"),
    [
        ({"gateway1": True}, Result.OK),
        ({"gateway1": True, "gateway2": False}, Result.WARNING),
        ({"gateway1": False, "gateway2": False}, Result.FAILED),
        ({}, Result.FAILED),
        (None, Result.SKIPPED),
    ],
)
def test_how_many_are_up(up: dict[str, bool] | None, result: Result) -> None:
    _, finding = balancer.judge(Seen("/usr/sbin/haproxy", "2.6.12", up=up))
    assert finding.result is result


def test_old_version_and_closed_socket() -> None:
    first, second = balancer.judge(Seen("/usr/sbin/haproxy", "2.2.9", socket_fault="Permission denied"))
    assert (first.result, second.result) == (Result.FAILED, Result.WARNING)


def test_states_of_servers() -> None:
    for status, up in (("UP", True), ("UP 1/2", True), ("no check", True), ("DRAIN", False), ("MAINT", False)):
        assert balancer.gateways(STATISTICS.format(status)) == {"gateway1": up, "gateway2": False}
