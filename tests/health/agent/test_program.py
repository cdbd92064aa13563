from pathlib import Path

from health.agent import nodefile
from health.agent.killswitch import Endpoint
from health.agent.openvpn import OpenVpn
from health.agent.program import Failure, Program
from health.agent.protocol import Ended
from health.agent.wireguard import WireGuard


def test_both_programs_are_what_pid_1_expects() -> None:
    node = nodefile.NodeFile(
        "jp3f9a1c", "jp", "wireguard", Endpoint(nodefile.IPv4Address("198.18.0.11"), 1, "udp"), (), "p.test", None, b""
    )
    programs: list[Program] = [WireGuard(node, Path("wg.key"), 1500), OpenVpn(node, Path())]
    for program in programs:
        assert not program.link.up
        assert program.failure is None
        assert not program.stop()


def test_a_failure_says_why() -> None:
    failure = Failure(Ended.CONFIG, "a reason")
    assert (failure.ended, str(failure)) == (Ended.CONFIG, "a reason")
