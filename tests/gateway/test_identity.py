"""Who a client is and what it wants, from all sources, the first time and every other time."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from argon2 import PasswordHasher

from gateway import identity
from gateway.auth import Authenticator
from gateway.config import GatewaySettings
from gateway.guesses import FREE
from gateway.identity import Identifier, Identity, Place, socks_raw
from gateway.identity_tasks import identify
from gateway.pools import Fleet
from gateway.want import Want
from gateway.wire.base import WireError
from health.model import User
from health.reasons import Reason
from health.registry import Snapshot

SOURCE = ip_address("192.0.2.1")
PASSWORD = "corr:ect"
HASH = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1).hash(PASSWORD)
SETTINGS: dict[str, Any] = {
    "domain": "Example.org.",
    "country_addresses": {"2001:db8:1::/64": "us", "2001:db8:1::392/128": "jp", "198.51.100.7/32": "de"},
}


def user(**fields: Any) -> User:
    return User(**({"name": "alice", "password_hash": HASH} | fields))


def place(address: str = "192.0.2.80", port: int = 3128, authority: str | None = None, *, auth: bool = True) -> Place:
    return Place((ip_address(address), port), authority, auth)


class World:
    """An identifier on a fleet whose users the test changes."""

    def __init__(self, **settings: Any) -> None:
        self.fleet = Fleet("m1")
        self.auth = Authenticator()
        self.identifier = Identifier(GatewaySettings(**(SETTINGS | settings)), self.auth, self.fleet)
        self.users(user())

    def users(self, *users: User) -> None:
        self.fleet.update(Snapshot("e", {}, {}, {}, {one.name: one for one in users}))

    async def log_in(self, name: str = "alice", at: Place | None = None, password: str = PASSWORD) -> Identity:
        raw = socks_raw(name, password)
        return await identify(self.identifier, (name, password), raw, at or place(), SOURCE)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.auth.close()


async def refused(log_in: Any) -> WireError:
    with pytest.raises(WireError) as caught:
        await log_in
    return caught.value


@pytest.mark.parametrize(
    ("name", "at", "country"),
    [
        ("alice-country-jp", place(), "jp"),
        ("alice", place(port=10392), "jp"),
        ("alice", place(authority="proxy-jp.example.org"), "jp"),
        ("alice", place(authority="proxy-uk.example.org"), "gb"),
        ("alice", place("2001:db8:1::392"), "jp"),
        ("alice", place("2001:db8:1::1"), "us"),
        ("alice", place("198.51.100.7"), "de"),
        ("alice", place("::ffff:198.51.100.7"), "de"),
        ("alice-country-jp", place("2001:db8:1::392", 10392, "proxy-jp.example.org"), "jp"),
        ("alice", place(authority="shop.example.net"), None),
        ("alice", place(), None),
    ],
)
async def test_each_source_says_the_country(world: World, name: str, at: Place, country: str | None) -> None:
    assert await world.log_in(name, at) == Identity(user(), "alice", Want(country=country))


@pytest.mark.parametrize(
    ("name", "at", "says"),
    [
        ("alice-country-us", place(port=10392), ("us", "jp")),
        ("alice-country-us", place(authority="proxy-jp.example.org"), ("us", "jp")),
        ("alice-country-us", place("2001:db8:1::392"), ("us", "jp")),
        ("alice", place("198.51.100.7", 10392), ("de", "jp")),
        ("alice", place(port=10392, authority="proxy-us.example.org"), ("us", "jp")),
        ("alice-node-us000001", place(port=10392), ("us000001", "jp")),
        ("alice", place(authority="proxy-xx.example.org"), ("xx",)),
    ],
)
async def test_sources_that_disagree_are_refused(world: World, name: str, at: Place, says: tuple[str, ...]) -> None:
    error = await refused(world.log_in(name, at))
    assert error.reason is Reason.BAD_WANT
    assert all(word in error.detail for word in says)


async def test_defaults_are_the_users_then_the_gateways() -> None:
    world = World(default_country="fr")
    world.users(user(default_country="jp"), user(name="bob"))
    assert (await world.log_in("alice")).want.country == "jp"
    assert (await world.log_in("bob")).want.country == "fr"
    assert (await world.log_in("alice-country-us")).want.country == "us"
    assert (await world.log_in("alice-node-us000001")).want == Want(node="us000001")
    world.auth.close()


async def test_countries_that_are_not_allowed(world: World) -> None:
    world.users(user(allowed_countries=("jp",)))
    assert (await world.log_in("alice-country-jp")).want.country == "jp"
    for name in ("alice-country-us", "alice-node-us000001"):
        assert (await refused(world.log_in(name))).reason is Reason.COUNTRY_FORBIDDEN


async def test_who_must_authenticate(world: World) -> None:
    at, free = place(), place("127.0.0.1", auth=False)
    assert (await refused(identify(world.identifier, None, b"", at, SOURCE))).reason is Reason.AUTH_REQUIRED
    assert world.identifier.known(b"", at, SOURCE) is None
    nobody = Identity(None, "", Want())
    assert await identify(world.identifier, None, b"", free, SOURCE) == nobody
    assert world.identifier.known(b"", free, SOURCE) == nobody
    assert await world.log_in("bob-country-jp", free, "any") == Identity(None, "bob", Want(country="jp"))
    assert world.identifier.known(socks_raw("bob-country-jp", "any"), at, SOURCE) is None


async def test_a_wrong_password_learns_nothing_of_the_want(world: World) -> None:
    for name in ("alice-country-xx", "bob-country-xx", "al ice"):
        assert (await refused(world.log_in(name, password="no"))).reason is Reason.AUTH_FAILED
    assert (await refused(world.log_in("alice-country-xx"))).reason is Reason.BAD_WANT


async def test_an_outcome_is_known_for_the_same_credentials_at_the_same_place(world: World) -> None:
    found = await world.log_in("alice-country-jp")
    raw = socks_raw("alice-country-jp", PASSWORD)
    assert world.identifier.known(raw, place(), SOURCE) is found
    assert await world.log_in("alice-country-jp") is found
    for other in (b"", b"Basic YTpi", raw[:-1], raw + b"x", socks_raw("alice", PASSWORD)):
        assert world.identifier.known(other, place(), SOURCE) is None
    for at in (place(port=10840), place("192.0.2.81"), place(authority="a.test"), place(auth=False)):
        assert world.identifier.known(raw, at, SOURCE) is None


@pytest.mark.parametrize(
    "users",
    [
        (),
        (user(name="bob"),),
        (user(allowed_countries=("us",)),),
        (user(password_hash=HASH + "x"),),
        (user(max_connections=1),),
    ],
)
async def test_a_changed_record_makes_it_worthless_at_once(world: World, users: tuple[User, ...]) -> None:
    raw = socks_raw("alice", PASSWORD)
    await world.log_in()
    world.users(*users)
    assert world.identifier.known(raw, place(), SOURCE) is None
    world.users(user())
    assert world.identifier.known(raw, place(), SOURCE) is None


async def test_a_record_read_again_unchanged_keeps_it(world: World) -> None:
    found = await world.log_in()
    world.users(user(), user(name="bob"))
    assert world.identifier.known(socks_raw("alice", PASSWORD), place(), SOURCE) is found


async def test_neither_password_nor_its_place_in_memory(world: World) -> None:
    await world.log_in()
    ((digest, _),) = world.identifier._outcomes
    assert len(digest) == 16
    assert PASSWORD.encode() not in repr(world.identifier._outcomes).encode()
    other = World()
    await other.log_in()
    ((elsewhere, _),) = other.identifier._outcomes
    assert digest != elsewhere, "the key is the process's own"
    other.auth.close()


async def test_outcomes_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "OUTCOMES_KEPT", 3)
    for i in range(5):
        await world.log_in(f"alice-session-s{i}")
    assert len(world.identifier._outcomes) == 3
    assert world.identifier.known(socks_raw("alice-session-s4", PASSWORD), place(), SOURCE) is not None
    assert world.identifier.known(socks_raw("alice-session-s0", PASSWORD), place(), SOURCE) is None


async def test_a_flood_of_guesses_does_not_delay_who_is_verified(world: World) -> None:
    await world.log_in()
    reasons = [(await refused(world.log_in(password=f"no{i}"))).reason for i in range(FREE + 4)]
    assert reasons[-1] is Reason.AUTH_SLOWED
    assert world.identifier.known(socks_raw("alice", PASSWORD), place(), SOURCE) is not None
    assert (await world.log_in("alice-country-jp")).want.country == "jp", "also for another wish, from that address"


def test_socks_credentials_cannot_be_taken_for_others() -> None:
    raws = {
        socks_raw(*pair) for pair in (("a", "bc"), ("ab", "c"), ("a\0b", "c"), ("a", "b\0c"), ("1:a", ""), ("", ""))
    }
    assert len(raws) == 6
    assert all(raw[0] == 5 for raw in raws)


@pytest.mark.parametrize(
    ("allowed", "source", "passes"),
    [
        ((), "203.0.113.9", True),
        (("192.0.2.0/24", "2001:db8::/32"), "192.0.2.77", True),
        (("192.0.2.0/24", "2001:db8::/32"), "2001:db8::1", True),
        (("192.0.2.0/24",), "::ffff:192.0.2.77", True),
        (("192.0.2.0/24", "2001:db8::/32"), "203.0.113.9", False),
        (("192.0.2.0/24",), "2001:db8::1", False),
    ],
)
def test_client_networks(allowed: tuple[str, ...], source: str, passes: bool) -> None:
    world = World(allow_clients=[ip_network(network) for network in allowed])
    world.auth.close()
    assert world.identifier.welcome(ip_address(source)) is passes


@pytest.mark.parametrize("domain", ["192.0.2.1", "", "a b", "-x.org"])
def test_a_domain_that_is_none_is_refused_at_start(domain: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        GatewaySettings(domain=domain)
