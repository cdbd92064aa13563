"""What a worker counts, and how the counts of several workers become one.

Plain dicts of numbers: a prometheus-client object costs 1 to 2 microseconds a call, and this is called several times
on every connection. Knows nothing of processes and of how the numbers are shown (`exposition`).

Labels are countries, nodes and reasons; nothing that grows with users or targets. Nodes come and go: the numbers of
one that left the fleet are dropped some minutes later.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable
from itertools import zip_longest
from typing import Any

BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms, in seconds."""
NODE_KEPT_S = 600.0
# Workers see a node leave at different times. Its numbers stop being shown when the last of them says so; until then
# all must still have theirs, or the sum would fall.
_MARGIN_S = 60.0

Rows = dict[tuple[str, ...], list[float]]
"""Numbers by label values."""
Counters = dict[str, Rows]
"""What only ever rises, by name; several are added up number by number."""

CONNECTIONS = "connections"  # country, node, reason: ended, bytes up, bytes down
DIALS = "dials"  # country, node: dials that succeeded
DIAL_FAILURES = "dial_failures"  # country, node, reason: dials that failed
DIAL_SECONDS = "dial_seconds"  # country: one number for each bucket and one above, then the sum of seconds
FIRST_BYTE_SECONDS = "first_byte_seconds"  # country: the same
REFUSALS = "refusals"  # reason: clients that were refused
PAUSES = "accept_pauses"  # reason: how often accept stopped
DATAGRAMS_DROPPED = "datagrams_dropped"  # direction, reason
TOTALS = "totals"  # no label: connections accepted, log lines dropped
_WITH_NODE = (CONNECTIONS, DIALS, DIAL_FAILURES)


class Metrics:
    """One worker's numbers. Every call costs 0.05 to 0.3 microseconds."""

    def __init__(self) -> None:
        self.open = 0
        """Client connections open."""
        self.udp_associations = 0
        """UDP associations open."""
        self.log_lines_dropped = 0
        self._accepted = 0
        self._connections: Rows = {}
        self._dials: Rows = {}
        self._dial_failures: Rows = {}
        self._dial_seconds: dict[str, list[float]] = {}
        # By node: its country's are the sum of these and of those that left.
        self._first_byte_seconds: dict[str, list[float]] = {}
        self._countries: dict[str, str] = {}
        self._cut_off: dict[str, int] = {}
        self._first_byte_seconds_gone: dict[str, list[float]] = {}
        self._refusals: Rows = {}
        self._pauses: Rows = {}
        self._datagrams_dropped: Rows = {}
        self._seen: dict[str, float] = {}

    def opened(self) -> None:
        """A client connection was accepted."""
        self.open += 1
        self._accepted += 1

    def closed(self) -> None:
        """A client connection is gone."""
        self.open -= 1

    def ended(self, country: str, node: str, reason: str, up: int, down: int) -> None:
        """A connection, or one plain HTTP request, ended after so many bytes. "" where there is no country or node."""
        try:
            row = self._connections[country, node, reason]
        except KeyError:
            row = self._connections[country, node, reason] = [0, 0, 0]
        row[0] += 1
        row[1] += up
        row[2] += down

    def dialled(self, country: str, node: str, seconds: float) -> None:
        """From choosing a node to a connected target, in `seconds`."""
        try:
            self._dials[country, node][0] += 1
        except KeyError:
            self._dials[country, node] = [1]
        try:
            row = self._dial_seconds[country]
        except KeyError:
            row = self._dial_seconds[country] = _histogram()
        row[bisect_left(BUCKETS, seconds)] += 1
        row[-1] += seconds

    def dial_failed(self, country: str, node: str, reason: str) -> None:
        """One dial by `node` failed, by whosever fault."""
        _add(self._dial_failures, (country, node, reason))

    def first_byte(self, country: str, node: str, seconds: float) -> None:
        """From the connected target to the first byte it sent, in `seconds`."""
        try:
            row = self._first_byte_seconds[node]
        except KeyError:
            row = self._first_byte_seconds[node] = _histogram()
            self._countries[node] = country
        row[bisect_left(BUCKETS, seconds)] += 1
        row[-1] += seconds

    def cut_off(self, node: str) -> None:
        """The target ended a connection by `node` before it had sent anything."""
        self._cut_off[node] = self._cut_off.get(node, 0) + 1

    def refused(self, reason: str) -> None:
        """A client was refused before anything was dialled for it."""
        _add(self._refusals, (reason,))

    def paused(self, reason: str) -> None:
        """The listeners stopped accepting: "limit" or "descriptors"."""
        _add(self._pauses, (reason,))

    def datagram_dropped(self, direction: str, reason: str) -> None:
        """A SOCKS5 datagram was not passed on; `direction` is "up" or "down"."""
        _add(self._datagrams_dropped, (direction, reason))

    def answers(self, node: str) -> tuple[int, float]:
        """Connections by `node` on which the target sent something, and how long that took in all, in seconds."""
        row = self._first_byte_seconds.get(node)
        return (0, 0.0) if row is None else (int(sum(row[:-1])), row[-1])

    def cut(self, node: str) -> int:
        """Connections by `node` that the target ended before it had sent anything."""
        return self._cut_off.get(node, 0)

    def dial_failures(self) -> Rows:
        """Dials that failed, by country, node and reason."""
        return self._dial_failures

    def counters(self) -> Counters:
        """Everything that only ever rises."""
        return {
            CONNECTIONS: self._connections,
            DIALS: self._dials,
            DIAL_FAILURES: self._dial_failures,
            DIAL_SECONDS: {(country,): row for country, row in self._dial_seconds.items()},
            FIRST_BYTE_SECONDS: self._first_bytes(),
            REFUSALS: self._refusals,
            PAUSES: self._pauses,
            DATAGRAMS_DROPPED: self._datagrams_dropped,
            TOTALS: {(): [self._accepted, self.log_lines_dropped]},
        }

    def known_nodes(self, fleet: Collection[str], now: float) -> list[str]:
        """The nodes whose numbers are to be shown: those of the fleet, and those that left it less than 10 minutes ago.

        Drops the numbers of nodes that left a minute longer ago than that. To be called about once a second; `now` is
        monotonic seconds.
        """
        self._seen.update(dict.fromkeys(fleet, now))
        gone = {node for node, seen in self._seen.items() if now - seen > NODE_KEPT_S + _MARGIN_S}
        if gone:
            for rows in (self._connections, self._dials, self._dial_failures):
                for key in [key for key in rows if key[1] in gone]:
                    del rows[key]
            for node in gone:
                del self._seen[node]
                self._cut_off.pop(node, None)
                self._forget_first_bytes(node)
        return [node for node, seen in self._seen.items() if now - seen <= NODE_KEPT_S]

    def _first_bytes(self) -> Rows:
        """By country."""
        sums: Rows = {(country,): list(row) for country, row in self._first_byte_seconds_gone.items()}
        for node, row in self._first_byte_seconds.items():
            _add_row(sums, (self._countries[node],), row)
        return sums

    def _forget_first_bytes(self, node: str) -> None:
        row = self._first_byte_seconds.pop(node, None)
        if row is not None:
            country = self._countries.pop(node)
            gone = self._first_byte_seconds_gone.setdefault(country, _histogram())
            self._first_byte_seconds_gone[country] = [a + b for a, b in zip(gone, row, strict=True)]


def _add(rows: Rows, key: tuple[str, ...]) -> None:
    row = rows.get(key)
    if row is None:
        rows[key] = [1]
    else:
        row[0] += 1


def _histogram() -> list[float]:
    return [0] * (len(BUCKETS) + 2)


def merge(into: Counters, more: Counters) -> None:
    """Add `more` to `into`, number by number; other code, started anew, may count more or fewer of them."""
    for name, rows in more.items():
        total = into.setdefault(name, {})
        for key, numbers in rows.items():
            _add_row(total, key, numbers)


def _add_row(into: Rows, key: tuple[str, ...], numbers: Iterable[float]) -> None:
    """Add one row."""
    so_far = into.get(key)
    into[key] = list(numbers) if so_far is None else [a + b for a, b in zip_longest(so_far, numbers, fillvalue=0)]


def forget(counters: Counters, known: Collection[str]) -> None:
    """Drop the rows of nodes that are not `known`; those without a node stay."""
    for name in _WITH_NODE:
        rows = counters.get(name, {})
        for key in [key for key in rows if key[1] and key[1] not in known]:
            del rows[key]


def to_json(counters: Counters) -> dict[str, list[Any]]:
    """`counters` as JSON has them: pairs of label values and numbers."""
    return {name: list(rows.items()) for name, rows in counters.items()}


def from_json(counters: dict[str, Iterable[Any]]) -> Counters:
    """Read back what `to_json` gave."""
    return {name: {tuple(key): numbers for key, numbers in rows} for name, rows in counters.items()}
