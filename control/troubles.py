"""What is wrong now, part by part: each beginning and end is told once, in the log and as an event."""

import contextlib

import structlog

from health.registry import Registry, RegistryError

log = structlog.get_logger()


class Troubles:
    """Subjects are parts (`redis`, `engine`, `copy`, `load`) or slots (`jp-0`)."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reasons: dict[str, str] = {}

    def of(self, subject: str) -> str:
        """Why `subject` does not work, or an empty string."""
        return self._reasons.get(subject, "")

    async def note(self, subject: str, reason: str) -> None:
        """What holds for `subject` now; an empty reason where all is well. Never raises."""
        old = self._reasons.get(subject, "")
        if reason:
            self._reasons[subject] = reason
        else:
            self._reasons.pop(subject, None)
        if reason and not old:
            log.error("trouble", part=subject, reason=reason)
        elif old and not reason:
            log.info("recovered", part=subject, was=old)
        if reason != old:
            # Without Redis nobody hears of it; the log has it.
            with contextlib.suppress(RegistryError):
                await self._registry.publish("trouble" if reason else "recovered", subject, reason=reason or old)
