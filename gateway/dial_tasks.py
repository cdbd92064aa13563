"""What a dial waits for where it is not at hand: where a session is, a look-up, a socket, an upstream proxy.

Each goes on with the dial's next step. `dial` itself only has steps; see `session_tasks` for why.
"""

import asyncio
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from gateway.dialled import Dialled
from gateway.errors import DoubtfulError, LinkError, LookupFailedError
from gateway.poller import READ
from gateway.want import Want
from gateway.wire.base import Target, WireError

if TYPE_CHECKING:
    from gateway.dial import Dial, Dialler


async def dial(dialler: "Dialler", want: Want, user: str, target: Target, allowed: Collection[str] = ()) -> Dialled:
    """Connect to `target` by the best node for `want`. Raises WireError with whose fault it was."""
    ended: asyncio.Future[None] = dialler.poller.loop.create_future()

    def done(_: "Dial") -> None:
        if not ended.done():
            ended.set_result(None)

    one = dialler.start(want, user, target, allowed, done)
    try:
        await ended
    except asyncio.CancelledError:
        one.cancel()
        raise
    return one.result()


async def recall(dial: "Dial") -> None:
    """Ask where the session is, within its budget of time."""
    await dial.dialler.fleet.recall_session(dial.want, dial.user, dial.allowed)
    dial.count_from_now()
    dial.choose()


async def resolve(dial: "Dial") -> None:
    """Look the name up at the chosen exit."""
    link = dial.chosen
    try:
        addresses = await link.resolve(dial.target.host)
    except LinkError as error:
        dial.node_failed(str(error))
    except LookupFailedError as error:
        if link.usable:
            dial.end(WireError(error.reason, "the name could not be resolved at the exit"))
        else:
            dial.node_failed("the tunnel went down")
    else:
        dial.count_from_now()
        dial.check(addresses)


async def fetch_socket(dial: "Dial", address: str) -> None:
    """A socket that the stock did not have."""
    try:
        sock = await dial.chosen.fetch_socket(address)
    except LinkError as error:
        dial.node_failed(str(error))
    else:
        dial.connect(sock)


async def open_by_name(dial: "Dial") -> None:
    """By a link that takes the name itself (an upstream proxy)."""
    dialler = dial.dialler
    left = dialler.timeout - (time.monotonic() - dial.started)
    alone = not dialler.fleet.others(dial.want, dial.allowed, (*dial.tried, dial.chosen.node_id))
    try:
        channel = await dial.chosen.open(dialler.poller, dial.target, left, alone=alone)
    except LinkError as error:
        dial.node_failed(str(error), doubtful=isinstance(error, DoubtfulError))
    except WireError as error:
        dial.end(error)
    else:
        dial.connected(channel.hand_over(), READ)
