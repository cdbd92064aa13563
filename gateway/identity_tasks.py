"""What of finding out who a client is has to wait: for a password's hash."""

from gateway.identity import Identifier, Identity, Place
from gateway.want import parse_username, split_username
from gateway.wire.base import Address, WireError
from health.model import User
from health.reasons import Reason


async def identify(
    identifier: Identifier, credentials: tuple[str, str] | None, raw: bytes, place: Place, source: Address
) -> Identity:
    """Check who it is, and put together what it wants. `raw` must be what `credentials` were read from.

    Raises WireError: AUTH_REQUIRED, AUTH_FAILED, AUTH_SLOWED, AUTH_BUSY, BAD_WANT or COUNTRY_FORBIDDEN.
    """
    found = identifier.known(raw, place, source)
    if found is not None:
        return found
    # The password first: whoever does not know it learns nothing, and pays the same, whatever the name says.
    user = await _authenticated(identifier, credentials, source) if place.must_authenticate else None
    name, named = parse_username(credentials[0] if credentials else "")
    identity = Identity(user, name, identifier.want(named, user, place))
    identifier.remember(raw, place, identity)
    return identity


async def _authenticated(identifier: Identifier, credentials: tuple[str, str] | None, source: Address) -> User:
    if credentials is None:
        raise WireError(Reason.AUTH_REQUIRED, "this proxy needs a user name and a password")
    name, _ = split_username(credentials[0])
    return await identifier.auth.check(identifier.fleet.snapshot.users, name, credentials[1], source)
