"""What the sessions of a worker share."""

from ipaddress import ip_address

from gateway.worker import PEERS_KEPT
from tests.gateway.inside import Inside
from tests.gateway.stub_fleet import node

HERE = ip_address("127.0.0.1")
THERE = ip_address("192.0.2.80")


async def test_who_a_peer_is() -> None:
    networks = {"trusted_proxies": ["192.0.2.9/32", "2001:db8::/64"], "allow_clients": ["192.0.2.0/24"]}
    async with Inside(**networks) as inside:
        peer = inside.worker.peer
        assert peer("192.0.2.9") == (ip_address("192.0.2.9"), False, True, True)
        assert peer("192.0.2.10") == (ip_address("192.0.2.10"), False, False, True)
        assert peer("2001:db8::7").trusted
        assert not peer("2001:db8::7").allowed
        assert peer("127.0.0.1") == (HERE, True, False, False)
        assert peer("::1").loopback
        assert peer("fe80::1%eth0").address == ip_address("fe80::1")
        assert not peer("::ffff:127.0.0.1").loopback, "in doubt it is asked for a password"


async def test_a_password_is_asked_for_everywhere_but_within_loopback() -> None:
    async with Inside() as inside:
        place = inside.worker.place
        asked = {
            (here, from_loopback): place(here, 3128, None, from_loopback).must_authenticate
            for here in (HERE, THERE)
            for from_loopback in (True, False)
        }
        assert asked == {(HERE, True): False, (HERE, False): True, (THERE, True): True, (THERE, False): True}
        assert place(HERE, 3128, None, True) is place(HERE, 3128, None, True), "made once and kept"
    async with Inside(require_auth=True) as inside:
        assert inside.worker.place(HERE, 3128, None, True).must_authenticate


async def test_what_is_remembered_of_strangers_is_bounded() -> None:
    async with Inside() as inside:
        for number in range(PEERS_KEPT + 100):
            inside.worker.peer(str(ip_address(number)))
        assert inside.worker.peer.cache_info().currsize == PEERS_KEPT


async def test_nodes_leave_room_for_fewer_clients() -> None:
    async with Inside() as few, Inside(*(node(f"zz{number:06}", kind="direct") for number in range(2, 251))) as many:
        assert few.worker.places - many.worker.places == 125


async def test_it_is_empty_when_the_last_one_left() -> None:
    async with Inside() as inside:
        worker = inside.worker
        assert worker.empty.is_set()
        clients = [inside.connect() for _ in range(3)]
        assert (worker.metrics.open, len(worker.sessions), worker.empty.is_set()) == (3, 3, False)
        clients.pop().sock.close()
        await inside.until(lambda: worker.metrics.open == len(worker.sessions) == 2)
        assert not worker.empty.is_set()
        for client in clients:
            client.sock.close()
        await inside.until(lambda: worker.metrics.open == len(worker.sessions) == 0)
        assert worker.empty.is_set()
        await inside.nothing_left()


async def test_a_drain_spares_those_that_are_at_work() -> None:
    async with Inside() as inside:
        begun = inside.connect()
        await begun.send(b"CONNECT a")
        inside.worker.drain()
        assert inside.worker.draining
        await begun.send(b" HTTP/1.1\r\n\r\n")
        assert (await begun.rest()).startswith(b"HTTP/1.1 400")
        await inside.nothing_left()
