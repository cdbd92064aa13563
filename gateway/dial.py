"""Turns a want and a target into a connected socket: choose a node, look the name up there, check the very address
that is dialled, connect; and another node if the first one failed by its own fault.

One deadline covers all tries. What the target refuses is not tried again.
"""

import asyncio
import errno
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from gateway import targets
from gateway.channel import AbortedError, Channel
from gateway.config import Network
from gateway.links import Link, LinkError, LookupFailedError
from gateway.poller import Poller
from gateway.pools import Fleet
from gateway.upstream import DoubtfulError, UpstreamLink
from gateway.want import Want
from gateway.wire.base import Target, WireError
from health.model import Node
from health.reasons import Reason

ADDRESSES_TRIED = 4

# connect(2) and RFC 1928 section 6: what an error of the dial itself means. Anything else is the node's.
TARGET_ERRORS = {
    errno.ECONNREFUSED: Reason.REFUSED,
    errno.ECONNRESET: Reason.REFUSED,
    errno.ETIMEDOUT: Reason.TARGET_TIMEOUT,
    errno.EHOSTUNREACH: Reason.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reason.NETWORK_UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class Dialled:
    """A connection to the target, and the node it leaves by. The channel counts among the link's tunnels.

    `moved` is the node that the client's session had to leave for this one, if it did.
    """

    node: Node
    link: Link
    channel: Channel
    ms: float
    moved: str = ""

    def release(self) -> None:
        """Close it and take it off the link. Idempotent."""
        self.link.tunnels.discard(self.channel)
        self.channel.close()


class NodeFailedError(Exception):
    """This try failed by the node's fault."""


class Dialler:
    """Dials for one worker. `timeout` is the deadline for all tries together, in seconds."""

    def __init__(self, fleet: Fleet, poller: Poller, allow: Sequence[Network], timeout: float) -> None:
        self._fleet = fleet
        self._poller = poller
        self._allow = tuple(allow)
        self._timeout = timeout

    async def dial(self, want: Want, user: str, target: Target, allowed: Collection[str] = ()) -> Dialled:
        """Connect to `target` by the best node for `want`.

        Raises WireError with whose fault it was.
        """
        if target.address is not None:
            targets.check(target.address, target.port, self._allow)
        started = time.monotonic()
        tried: set[str] = set()
        doubted: list[str] = []
        last = moved = ""
        retrying = False
        try:
            async with asyncio.timeout(self._timeout):
                if not self._fleet.knows_session(want, user):
                    await self._fleet.recall_session(want, user, allowed)
                while True:
                    try:
                        node, link, left_node = self._fleet.choose(want, user, allowed, tried)
                    except WireError as error:
                        if not last:
                            raise
                        # One that went down meanwhile is no node any more; one that is up failed.
                        reason = Reason.NODE_DIAL if link.usable else Reason.NO_NODE
                        raise WireError(reason, f"{error.detail}; the last one tried: {last}") from None
                    moved = moved or left_node
                    try:
                        if isinstance(link, UpstreamLink):
                            left = self._timeout - (time.monotonic() - started)
                            alone = not self._fleet.others(want, allowed, {*tried, node.id})
                            channel = await link.open(self._poller, target, left, alone=alone)
                        else:
                            channel = await self._by(link, target)
                    except (NodeFailedError, LinkError) as error:
                        tried.add(node.id)
                        last = str(error)
                        if isinstance(error, DoubtfulError):
                            doubted.append(node.id)
                        else:
                            self._fleet.failed(node.id)
                        # A node that is hard-down is out of the choice: going on without it multiplies no load.
                        if link.usable and not retrying:
                            retrying = self._fleet.may_retry(self._fleet.in_flight)
                            if not retrying:
                                raise WireError(Reason.NODE_DIAL, f"{last}; too many others try again now") from None
                        continue
                    except WireError as error:
                        if error.reason is Reason.REFUSED:
                            self._reached(node.id, doubted)
                        raise
                    self._reached(node.id, doubted)
                    link.tunnels.add(channel)
                    return Dialled(node, link, channel, (time.monotonic() - started) * 1000, moved)
        except TimeoutError:
            raise WireError(Reason.TARGET_TIMEOUT, f"no connection to the target within {self._timeout:g} s") from None
        finally:
            if retrying:
                self._fleet.retried()

    def _reached(self, node_id: str, doubted: Collection[str]) -> None:
        self._fleet.worked(node_id)
        for other in doubted:  # it was not the target, then
            self._fleet.failed(other)

    async def _by(self, link: Link, target: Target) -> Channel:
        failure = WireError(Reason.NAME_NOT_FOUND, "the name has no address that this exit can reach")
        for address in (await self._addresses(link, target))[:ADDRESSES_TRIED]:
            try:
                return await self._connect(link, address, target.port)
            except WireError as error:
                failure = error
        raise failure

    async def _addresses(self, link: Link, target: Target) -> list[IPv4Address | IPv6Address]:
        if target.address is not None:
            if _family(target.address) not in link.families:
                raise WireError(Reason.ADDRESS_UNSUPPORTED, "this exit has no IPv6: use a name, or an IPv4 address")
            return [target.address]
        try:
            found = [ip_address(text) for text in await link.resolve(target.host)]
        except LinkError as error:
            raise NodeFailedError(str(error)) from None
        except LookupFailedError as error:
            if not link.usable:
                raise NodeFailedError("the tunnel went down") from None
            raise WireError(error.reason, "the name could not be resolved at the exit") from None
        # One forbidden address among the answers condemns them all: a mixed answer is an attack or a mistake.
        for address in found:
            targets.check(address, target.port, self._allow)
        return found

    async def _connect(self, link: Link, address: IPv4Address | IPv6Address, port: int) -> Channel:
        family = _family(address)
        try:
            channel = Channel(self._poller, await link.take_socket(family))
        except LinkError as error:
            raise NodeFailedError(str(error)) from None
        link.dials.add(channel)
        try:
            code, pending = await channel.connect((str(address), port))
        except AbortedError:
            raise NodeFailedError("the tunnel went down") from None
        except BaseException:
            channel.close()
            raise
        finally:
            link.dials.discard(channel)
        if code == 0:
            return channel
        channel.close()
        reason = TARGET_ERRORS.get(code)
        if reason is None or not pending or not link.usable:
            raise NodeFailedError(f"the exit could not dial: {errno.errorcode.get(code, code)}")
        raise WireError(reason, f"dialled from {link.node_id}")


def _family(address: IPv4Address | IPv6Address) -> str:
    return "inet" if address.version == 4 else "inet6"
