"""Every Redis key, and nothing else that knows Redis.

Keys, all under `vx:1:`, and how long one stays that nobody writes again (values are JSON with `schema: 1`):

    node:<id>           for ever    a node record; written by control
    nodes               for ever    set of node ids
    sample:<id>         5 s         last sample
    score:<id>          10 min      last score; gateways keep what they saw
    report:<worker>     5 s         what a gateway worker tells of its nodes, see health.registry.reports
    reports             5 s         set of the workers that told something
    pool:<cc>           for ever    a pool
    pools               for ever    set of countries
    user:<name>         for ever    a proxy user
    users               for ever    set of names
    token:<id>          for ever    an API token, its secret's SHA-256 only
    tokens              for ever    set of ids
    session:<user>:<name>
                        1.25 ttl    the node a client's session is on; ttl (at most 7 d) is the client's. <user> has no
                                    colon; empty for all who proved no name
    limits:<user>       15 s        hash of the leases that gateway workers hold of a user's limits
    usage:<user>:<yyyymm>
                        62 days     hash of the bytes a user moved in a month (UTC): `floor` + `sum` is the total, the
                                    other fields are what each worker told; plain numbers
    claim:<slot>        for ever    the id of the node that holds a place in a pool (`jp-0`); changed by compare-and-set
                                    only
    slot:<account>:<n>  for ever    who holds a session of a provider's account, see health.registry.account_slots
    gate:<account>      10 min      why no node of an account may start now
    penalties           1 h         servers that failed lately
    troubles            15 s        what is wrong now, by part or country, as the leader of control told last
    lease:<role>        60 s        who leads a role; cut by who stands by where a clock that went back made it longer
    lease:collector:<machine>
                        4 s         a machine's collector lives and writes
    lease:collecting:<machine>
                        60 s        which of several collectors of a machine writes
    epoch               for ever    random, written by control once nodes, pools and users are complete; a Redis without
                                    it is empty, not a fleet without nodes
    speed:<machine>     1 d         speed tests that wait or run, see health.registry.speed
    speed-result:<id>   30 d        the result of one
    speed-results, speed-results:<node>
                        30 d        ids of results, by time
    sequence            for ever    how often anything changed that a snapshot holds (nodes, scores, pools, users)
    events              channel     something changed, read again
    scores              channel     the scores that were just written, with the sequence of that change

A snapshot has the epoch and sequence it was read at. Scores that are told with the next sequence are added to it; any
other event, a gap in the sequence or another epoch force a full read. Who was told nothing asks for epoch and sequence
before a second is over, so that is what a lost message costs.

The sign of life of a collector expires before the samples written with it: a missing sample means a missing node only
while the collector lives (read `collectors` first, `samples` after).
"""

from typing import Self

import redis.asyncio as aioredis

from health.config import RedisSettings
from health.registry.account_slots import AccountSlots
from health.registry.base import RegistryError, StaleVersionError
from health.registry.fleet import Fleet
from health.registry.keys import PREFIX, SAMPLE_TTL_S
from health.registry.leading import Leading
from health.registry.measures import Measures
from health.registry.opening import client
from health.registry.people import People
from health.registry.removal import Removal
from health.registry.reports import Reports
from health.registry.speed import SpeedTests
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
        self.reports = Reports(client, PREFIX, self._call)
        self.speed = SpeedTests(client, PREFIX, self._call)
        self.removal = Removal(client, PREFIX, self._call)

    @classmethod
    def open(cls, settings: RedisSettings) -> Self:
        """A registry on a pool of connections; nothing is sent before the first call."""
        return cls(client(settings), deadline=2 * settings.timeout)
