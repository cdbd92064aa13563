"""The record of who changed what: one log line and one event for every change that was asked for, granted or not.

It never sees a body, so no secret can get into it.
"""

import contextlib
import logging
from dataclasses import dataclass

import structlog

from health.registry import Registry, RegistryError

# Whatever log level is set: a record that can be turned down is none.
log = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
KIND = "audit"


@dataclass(frozen=True, slots=True)
class Change:
    """`who` is `admin` or `token:<id>`, `what` an operation's name (`node.start`), `subject` what it was about, and
    `outcome` `done` or the refusal's reason word."""

    who: str
    what: str
    subject: str
    outcome: str
    request_id: str


async def tell(registry: Registry, change: Change, mark: str) -> bool:
    """Log it and publish it; `mark` tells this publication from others. False where Redis did not take it."""
    facts = {"who": change.who, "what": change.what, "outcome": change.outcome, "request_id": change.request_id}
    log.info(KIND, subject=change.subject, **facts)
    with contextlib.suppress(RegistryError):
        await registry.publish(KIND, change.subject, mark=mark, **facts)
        return True
    return False
