"""The supervisor's log lines: as `health.logs` makes them, with the standard library alone.

structlog and what it brings cost the supervisor more memory and time to start than all the rest of it.
"""

import json
import logging
import time

from health.streams import Stream

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "taskName"}


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        ts = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        line |= {"event": record.getMessage(), "level": record.levelname.lower(), "ts": f"{ts}.{int(record.msecs):03}Z"}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(level: str, stream: Stream) -> None:
    """Send all logs of `level` and above to `stream`; what is passed as `extra` becomes fields of the line."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Line())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
