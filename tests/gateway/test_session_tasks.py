"""However a session's task ends, the client is told or let go, and the log says what it was."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext

import pytest

from gateway.errors import ClientGoneError
from gateway.session import Session
from gateway.session_tasks import more
from gateway.wire.base import WireError
from health.reasons import Reason
from tests.gateway.inside import Client, Inside, user


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with Inside(user()) as made:
        yield made
        await made.nothing_left()


async def joined(inside: Inside) -> tuple[Client, Session]:
    client = inside.connect()
    await inside.until(lambda: len(inside.worker.sessions) == 1)
    (session,) = inside.worker.sessions
    return client, session


@pytest.mark.parametrize(
    ("error", "reasons"),
    [
        (None, []),
        (ClientGoneError(), []),
        (WireError(Reason.BAD_WANT, "no"), [Reason.BAD_WANT]),
        (TimeoutError(), [Reason.HANDSHAKE_TIMEOUT]),
        (ConnectionResetError(), [Reason.CLIENT_RESET]),
        (RuntimeError("a fault of ours"), [Reason.INTERNAL]),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_however_it_ends(inside: Inside, error: Exception | None, reasons: list[Reason]) -> None:
    client, session = await joined(inside)

    async def work() -> None:
        await asyncio.sleep(0)
        if error is not None:
            raise error

    session.run(work())
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == reasons
    with pytest.raises(ConnectionResetError) if reasons == [Reason.INTERNAL] else nullcontext():
        await client.rest()


async def test_cancelled_it_says_nothing_of_its_own(inside: Inside) -> None:
    client, session = await joined(inside)
    session.run(asyncio.sleep(3600))
    await asyncio.sleep(0)
    session.abort(Reason.SHUTDOWN)
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == [Reason.SHUTDOWN]
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_more_adds_what_was_read_and_tells_the_end(inside: Inside) -> None:
    client, session = await joined(inside)
    seen: list[bytes] = []

    async def work() -> None:
        while True:
            await more(session)
            seen.append(session.data)

    session.run(work())
    await client.send(b"one")
    await inside.until(lambda: seen == [b"one"])
    await client.send(b"two")
    await inside.until(lambda: seen == [b"one", b"onetwo"])
    client.finish()
    await inside.until(lambda: not inside.worker.sessions)
    assert inside.reasons == []
