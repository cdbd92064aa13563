"""How every process logs: one JSON object a line on stderr, or coloured lines where stderr is a terminal.

Every line has `ts` (UTC, RFC 3339), `level` and `event`. Lines of libraries that use the standard logging module look
the same. Called once, by whoever starts a process.
"""

import logging
import sys
from typing import Any

import structlog

from health.streams import Stream


def configure(level: str = "info", stream: Stream | None = None) -> None:
    """Send all logs of `level` (debug, info, warning, error) and above to `stream`, by default stderr."""
    out: Any = stream if stream is not None else sys.stderr
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, *_renderer(out)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderer(out)],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def _renderer(out: Stream) -> list[Any]:
    if out.isatty():
        # The default formatter shows the variables of every frame, passwords among them.
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(timestamp_key="ts", exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False, default=str)]
