"""The log line of a connection, formatted. Knows nothing of where lines go and of what happens on a connection."""

import time
from collections.abc import Callable
from json.encoder import encode_basestring_ascii

from health.reasons import WIRE, Reason

DETAIL_LENGTH = 300

# Put together here: an enum member costs as much to format as half of the line.
_OUTCOME = {reason: f'"fault":"{WIRE[reason].fault.value}","reason":"{reason.value}"' for reason in Reason}


class ConnectionLog:
    """Formats the line of a connection. `add` takes it; None where connections are not to be logged."""

    def __init__(self, add: Callable[[str], None] | None) -> None:
        self._add = add
        self._now = 0
        self._ts = ""

    def write(
        self,
        conn_id: str,
        user: str,
        country: str,
        node: str,
        reason: Reason,
        detail: str,
        up: int,
        down: int,
        ms: float,
    ) -> None:
        """One connection, or one plain HTTP request, ended.

        Only `detail` is escaped (and cut to 300 characters): the others are letters, digits, dots and underscores.
        """
        if self._add is None:
            return
        now = int(time.time() * 1000)
        if now != self._now:
            self._now, self._ts = now, _timestamp(now)
        text = encode_basestring_ascii(detail[:DETAIL_LENGTH]) if detail else '""'
        self._add(
            f'{{"ts":"{self._ts}","level":"info","event":"connection","conn_id":"{conn_id}","user":"{user}",'
            f'"country":"{country}","node":"{node}",{_OUTCOME[reason]},"detail":{text},'
            f'"bytes_in":{up},"bytes_out":{down},"ms":{ms:.1f}}}\n'
        )


def _timestamp(ms: int) -> str:
    """RFC 3339, from Unix milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1000))}.{ms % 1000:03}Z"
