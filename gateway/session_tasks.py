"""What a session's task waits for: more bytes, who the client is, a connection. `session` itself only has steps.

Steps are compiled (`deploy.compile`), what waits is not: mypyc gets exceptions in coroutines wrong now and then.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from gateway import dial_tasks, identity_tasks
from gateway.dialled import Dialled
from gateway.errors import ClientGoneError
from gateway.identity import socks_raw
from gateway.wire.base import Target, WireError
from health.reasons import Reason

if TYPE_CHECKING:
    from gateway.session import Session

# A burst may outrun this worker's lease of its user's connections, which is renewed within 50 ms.
LEASE_WAIT_S = 0.2
_LOGIN_REFUSED = (Reason.AUTH_REQUIRED, Reason.AUTH_FAILED, Reason.AUTH_SLOWED, Reason.AUTH_BUSY)


async def guard(session: "Session", work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; the session hears how it ended."""
    try:
        await work
    except asyncio.CancelledError as error:
        session.task_ended(error)
        raise
    except Exception as error:
        session.task_ended(error)
    else:
        session.task_ended(None)


async def more(session: "Session") -> None:
    """Read more into the session's `data`. Raises ClientGoneError at the end."""
    chunk = await session.channel.read()
    if not chunk:
        raise ClientGoneError
    session.data += chunk


async def identify(session: "Session", credentials: tuple[str, str] | None, raw: bytes | None = None) -> None:
    """Check who it is, and put together what it wants from every source that says so. Raises WireError."""
    identifier, place = session.worker.identifier, session.place
    if raw is None:
        raw = socks_raw(*credentials) if credentials else b""
    identity = identifier.known(raw, place, session.source)
    if identity is None:
        identity = await identity_tasks.identify(identifier, credentials, raw, place, session.source)
    try:
        session.take(identity)
    except WireError as error:
        if error.reason is not Reason.CONNECTION_LIMIT:
            raise
        await asyncio.sleep(LEASE_WAIT_S)
        session.take(identity)


async def identify_then(
    session: "Session", raw: bytes, credentials: tuple[str, str] | None, then: "Callable[[Session], None]"
) -> None:
    """The same, and go on with the step `then`. Raises WireError."""
    await identify(session, credentials, raw)
    session.handed_on()
    session.go_on(then)


async def log_in(
    session: "Session",
    raw: bytes,
    credentials: tuple[str, str],
    then: "Callable[[Session, WireError | None], None]",
) -> None:
    """The same where the answer to a log-in comes before that to the request: `then` is told what will be refused.

    Raises WireError where the log-in itself is.
    """
    denied = None
    try:
        await identify(session, credentials, raw)
    except WireError as error:
        if error.reason in _LOGIN_REFUSED:
            raise
        denied = error
    session.handed_on()
    session.go_on(lambda session: then(session, denied))


async def dial(session: "Session", target: Target) -> Dialled:
    """Connect to `target` for this client. Raises WireError."""
    allowed = session.user.allowed_countries if session.user else ()
    return await dial_tasks.dial(session.worker.dialler, session.want, session.owner, target, allowed)
