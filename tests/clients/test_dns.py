"""DNS over UDP through SOCKS5 (UDP ASSOCIATE): PySocks carries the datagrams, dnspython asks and reads.

The DNS server behind each exit says the node's id in the TXT record of any name.
"""

import dns.message
import dns.query
import pytest
import socks

from tests.clients.world import HOST, NODES, PASSWORD, SITE, Front, World
from tests.gateway.harness import Gateway


def associated(gateway: Gateway | Front, user: str, password: str, rdns: bool = True) -> socks.socksocket:
    """With `rdns`, its default, PySocks names the address that it does not know yet "0", as a host name."""
    sock = socks.socksocket(type=socks.socket.SOCK_DGRAM)
    sock.settimeout(20)
    sock.set_proxy(socks.SOCKS5, HOST, gateway.port, rdns=rdns, username=user, password=password)
    return sock


def where(sock: socks.socksocket, host: str) -> str:
    """Which exit the DNS server at `host` is behind."""
    query = dns.message.make_query("where.test", "TXT")
    sock.sendto(query.to_wire(), (host, 53))
    data, _ = sock.recvfrom(4096)
    answer = dns.message.from_wire(data)
    assert query.is_response(answer)
    return str(answer.answer[0][0]).strip('"')


@pytest.mark.parametrize("country", NODES)
@pytest.mark.parametrize(("host", "rdns"), [(HOST, False), (HOST, True), (SITE, True)])
def test_a_lookup(world: World, host: str, rdns: bool, country: str) -> None:
    with associated(world.closed, world.name(country), PASSWORD, rdns) as sock:
        for _ in range(3):
            assert where(sock, host) == NODES[country]


def test_a_wrong_password(world: World) -> None:
    with associated(world.refusing, world.name("jp"), "wrong") as sock, pytest.raises(socks.SOCKS5AuthError):
        where(sock, HOST)
