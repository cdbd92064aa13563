"""SOCKS5 UDP in every country: it leaves by that country's tunnel, and by nothing else."""

import secrets
from pathlib import Path

import pytest

from deploy.lab import world
from tests.lab.datagrams import Association, Wires
from tests.lab.harness import Lab, wait_for
from tests.lab.test_leaks import COUNTRIES, DOCKER_RESOLVER, ORIGIN, Dialler, keeps_tight

WHO = (ORIGIN, 7)  # answers a datagram with its sender's address


@pytest.mark.parametrize("gateway", [0, 1])
@pytest.mark.parametrize("country", world.PLACES)
def test_the_dns_server_inside_the_tunnel_answers(lab: Lab, country: str, gateway: int) -> None:
    with Association(lab, country, gateway) as association:
        for server in world.TUNNEL_DNS:
            assert association.addresses(server, world.WHERE_NAME) == [world.PLACES[country].where]


@pytest.mark.parametrize("country", world.PLACES)
def test_it_is_seen_under_the_countrys_address(lab: Lab, country: str) -> None:
    with Association(lab, country) as association:
        for _ in range(3):
            assert association.ask(*WHO, b"who").decode() in lab.status["countries"][country]["egress"]


@pytest.mark.parametrize("country", world.PLACES)
def test_nothing_comes_by_another_way(lab: Lab, country: str) -> None:
    """Judged by what goes over the host's wires, since most of what is sent here has nobody to answer it."""
    (node, *_) = lab.nodes(country)
    may, may_not = secrets.token_bytes(32), secrets.token_bytes(32)
    wires = Wires()
    try:
        with Association(lab, f"{country}-node-{node}-strict") as association:
            for host, port in (Dialler(lab, node).endpoint, DOCKER_RESOLVER, ("10.99.0.1", 53), ("127.0.0.1", 53)):
                association.send(host, port, may_not)
            # Datagrams keep their order up to the exit: when this one is answered the others had their chance.
            assert association.ask(*WHO, may)
            assert association.receive(0.5) == b""
        seen = wires.seen([may, may_not])
    finally:
        wires.close()
    assert seen[may]  # beyond the tunnel, unencrypted: the wires are watched
    assert not seen[may_not]


async def test_nothing_leaks_while_datagrams_pass(lab: Lab) -> None:
    """Beside them handed-over datagram sockets are aimed at the VPN endpoint and Docker's resolver themselves."""
    answered = []

    def converse(node: str) -> None:
        with Association(lab, f"{node[:2]}-node-{node}-strict") as association:
            for _ in range(200):
                for forbidden in (Dialler(lab, node).endpoint, DOCKER_RESOLVER):
                    association.send(*forbidden, b"not to arrive")
                if association.addresses(world.TUNNEL_DNS[0], world.WHERE_NAME):
                    answered.append(node[:2])

    diallers = await keeps_tight(lab, converse, 0.5)
    assert {country: answered.count(country) for country in COUNTRIES} == dict.fromkeys(COUNTRIES, 200)
    tried = {what for dialler in diallers for what, _ in dialler.outcomes}
    assert {"endpoint udp", "resolver udp"} <= tried


def test_an_association_ends_with_its_node(lab: Lab) -> None:
    (node, *_) = lab.nodes("jp")
    agent = Path(lab.status["state_dir"]) / "nodes" / node / "agent" / "agent.sock"
    with Association(lab, f"jp-node-{node}") as association:
        assert association.ask(*WHO, b"who")
        assert agent.exists()
        lab.docker("kill", f"vpnexit-{node}")
        wait_for(association.ended, 2, "the association has ended")
