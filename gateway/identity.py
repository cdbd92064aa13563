"""Who a client is and which exit it wants, put together from every source that says so.

An outcome is remembered under a keyed digest of the credentials as sent, so that the next connection costs one
look-up: neither the password nor a plain hash of it stays in memory, and what the look-up's time tells is about the
digest. An outcome counts while the user's record is still the one it was made from; refusals are not remembered.
"""

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address
from secrets import token_bytes
from typing import NamedTuple

from gateway.auth import Authenticator
from gateway.config import GatewaySettings, Network
from gateway.pools import Fleet
from gateway.want import Want, from_authority, merge
from gateway.wire.base import Address, WireError
from health import countries
from health.model import User
from health.reasons import Reason

OUTCOMES_KEPT = 10_000
PLACES_KEPT = 4096


class Place:
    """What the connection itself says. Immutable; make it once and keep it, its hash is computed here.

    `destination` is the address and port the client dialled, `authority` the TLS server name in canonical form,
    `must_authenticate` whether a user and password are needed there.
    """

    __slots__ = ("_hash", "authority", "destination", "must_authenticate")

    def __init__(self, destination: tuple[Address, int], authority: str | None, must_authenticate: bool) -> None:
        self.destination = destination
        self.authority = authority
        self.must_authenticate = must_authenticate
        self._hash = hash((destination, authority, must_authenticate))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and self._fields() == other._fields()

    def _fields(self) -> tuple[object, ...]:
        return self.destination, self.authority, self.must_authenticate


class Identity(NamedTuple):
    """The outcome. `user` is None where no authentication was needed; `name` is then what the client called itself."""

    user: User | None
    name: str
    want: Want


class Identifier:
    """Identifies the clients of one worker."""

    def __init__(self, settings: GatewaySettings, authenticator: Authenticator, fleet: Fleet) -> None:
        self.auth = authenticator
        self.fleet = fleet
        self._domain = settings.domain
        self._default = settings.default_country
        self._clients = settings.allow_clients
        self._by_address = _longest_first(settings.country_addresses)
        self._key = token_bytes(32)
        self._outcomes: dict[tuple[bytes, Place], Identity] = {}
        self._place_want = lru_cache(PLACES_KEPT)(self._read_place)

    def welcome(self, source: Address) -> bool:
        """False where a list of client networks is configured and lacks `source`."""
        return not self._clients or any(_plain(source) in network for network in self._clients)

    def known(self, raw: bytes, place: Place, source: Address) -> Identity | None:
        """What `identity_tasks.identify` found before for the same credentials at the same place; None: ask that.

        `raw` is the value of Proxy-Authorization as sent, `socks_raw` of a SOCKS log-in, or empty without credentials.
        """
        key = (blake2b(raw, digest_size=16, key=self._key).digest(), place)
        identity = self._outcomes.get(key)
        if identity is None or identity.user is None:
            return identity
        # The very object: the snapshot keeps a record that did not change.
        if self.fleet.snapshot.users.get(identity.user.name) is identity.user:
            return None if self.auth.slowed(source, identity.user.name) else identity
        del self._outcomes[key]
        return None

    def want(self, named: Want, user: User | None, place: Place) -> Want:
        """What `named` and everything else about the connection ask for together. Raises WireError."""
        want = merge(named, self._place_want(place))
        if want.country is None and want.node is None:
            default = user.default_country if user else None
            want = merge(want, Want(country=default or self._default))
        country = want.country or (want.node[:2] if want.node else None)
        if user and user.allowed_countries and country and country not in user.allowed_countries:
            raise WireError(Reason.COUNTRY_FORBIDDEN, f"user {user.name} may not use {country}")
        return want

    def _read_place(self, place: Place) -> Want:
        address, port = place.destination
        address = _plain(address)
        by_address = next((country for network, country in self._by_address if address in network), None)
        return merge(
            from_authority(place.authority, self._domain),
            Want(country=countries.from_port(port)),
            Want(country=by_address),
        )

    def remember(self, raw: bytes, place: Place, identity: Identity) -> None:
        """For `known`. `raw` must be what the credentials were read from."""
        if len(self._outcomes) >= OUTCOMES_KEPT:
            del self._outcomes[next(iter(self._outcomes))]
        self._outcomes[(blake2b(raw, digest_size=16, key=self._key).digest(), place)] = identity


def socks_raw(username: str, password: str) -> bytes:
    """The credentials of RFC 1929 as `known` takes them; no value of an HTTP field begins with this byte."""
    name = username.encode()
    return b"\x05%d:%b:%b" % (len(name), name, password.encode())


def _longest_first(table: Mapping[Network, str]) -> list[tuple[Network, str]]:
    return sorted(table.items(), key=lambda item: -item[0].prefixlen)


def _plain(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
