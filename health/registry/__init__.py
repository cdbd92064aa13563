"""Every Redis key, and nothing else that knows Redis.

Keys, all under `vx:1:` (values are JSON with `schema: 1`):

    node:<id>      a node record; written by control, does not expire
    nodes          set of node ids
    sample:<id>    last sample; expires after 5 s
    score:<id>     last score; expires after 10 minutes, gateways keep what they saw
    pool:<cc>      a pool; pools is the set of countries
    user:<name>    a proxy user; users is the set of names
    token:<id>     an API token, its secret's SHA-256 only; tokens is the set of ids
    session:<user>:<name>
                   the node a client's session is on; expires. <user> has no colon; empty for all who proved no name
    limits:<user>  hash of the leases that gateway workers hold of a user's limits; each ends after 15 s
    usage:<user>:<yyyymm>
                   hash of the bytes a user moved in a month (UTC): `floor` + `sum` is the total, the other fields are
                   what each worker told; plain numbers, kept for two months
    claim:<slot>   the id of the node that holds a place in a pool (`jp-0`); changed by compare-and-set only
    slot:<account>:<n>, gate:<account>, penalties
                   the providers' accounts, see health.account_slots
    troubles       what is wrong now, by part or country, as the leader of control told last; expires after 15 s
    lease:<role>   who leads a role; lease:collector:<machine> says that a machine's collector lives
    epoch          random, written by control once nodes, pools and users are complete; a Redis without it is empty,
                   not a fleet without nodes
    sequence       how often anything changed that a snapshot holds (nodes, scores, pools, users); a number
    events         channel: something changed, read again
    scores         channel: the scores that were just written, with the sequence of that change

A snapshot has the epoch and sequence it was read at. Scores that are told with the next sequence are added to it; any
other event, a gap in the sequence or another epoch force a full read. Who was told nothing asks for epoch and sequence
before a second is over, so that is what a lost message costs.

The sign of life of a collector expires before the samples written with it: a missing sample means a missing node only
while the collector lives (read `collectors` first, `samples` after).
"""

from typing import Self

import redis.asyncio as aioredis

from health.account_slots import AccountSlots
from health.config import RedisSettings
from health.registry.base import RegistryError, StaleVersionError
from health.registry.fleet import Fleet
from health.registry.keys import PREFIX, SAMPLE_TTL_S
from health.registry.leading import Leading
from health.registry.measures import Measures
from health.registry.opening import client
from health.registry.people import People
from health.registry.telling import Scored
from health.registry.watching import Snapshot, Watching

__all__ = [
    "PREFIX",
    "SAMPLE_TTL_S",
    "Registry",
    "RegistryError",
    "Scored",
    "Snapshot",
    "StaleVersionError",
]


class Registry(Fleet, People, Measures, Leading, Watching):
    """The fleet's shared state. Every method raises RegistryError when Redis does not answer in time.

    In time: within `deadline` seconds, retries and reconnects included.
    """

    def __init__(self, client: "aioredis.Redis", deadline: float = 0.5) -> None:
        super().__init__(client, deadline)
        self.accounts = AccountSlots(client, PREFIX, self._call)

    @classmethod
    def open(cls, settings: RedisSettings) -> Self:
        """A registry on a pool of connections; nothing is sent before the first call."""
        return cls(client(settings), deadline=2 * settings.timeout)
