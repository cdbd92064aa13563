"""What is wrong now, part by part: each beginning and end is told once, in the log and as an event.

Who leads shares it through the registry, so that every instance can say why a wish is not fulfilled.
"""

import contextlib
import re

import structlog

from health.registry import Registry, RegistryError

log = structlog.get_logger()

SHARE_S = 5.0
"""How often the registry is told what it knows already: its record expires."""
_SPAN = re.compile(r"[0-9]+ (?:min(?: [0-9]+ s)?|s)\b")
EVERYBODYS = frozenset({"redis", "events", "copy", "machine"})
"""What an instance that does not lead sees for itself."""


class Troubles:
    """Subjects are parts (`redis`, `engine`, `events`, `copy`, `machine`, `load`, `logs`) or countries."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._reasons: dict[str, str] = {}
        self._shared: tuple[float, dict[str, str]] | None = None
        self._others: dict[str, str] = {}

    def of(self, subject: str) -> str:
        """Why `subject` does not work, as far as this instance or who leads knows; or an empty string."""
        return self._reasons.get(subject, "") or self._others.get(subject, "")

    async def share(self, now: float) -> None:
        """Tell the other instances, when something changed and every few seconds. Raises RegistryError."""
        self._others = {}
        if self._shared is None or self._shared[1] != self._reasons or now - self._shared[0] >= SHARE_S:
            await self._registry.put_troubles(self._reasons)
            self._shared = (now, dict(self._reasons))

    async def follow(self) -> None:
        """Learn what the instance that leads says. Raises RegistryError."""
        self._others, self._shared = await self._registry.troubles(), None
        # What this one found while it led is the leader's to say by now.
        self._reasons = {subject: reason for subject, reason in self._reasons.items() if subject in EVERYBODYS}

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
        if _SPAN.sub("", reason) != _SPAN.sub("", old):  # one that counts down is the same
            # Without Redis nobody hears of it; the log has it.
            with contextlib.suppress(RegistryError):
                await self._registry.publish("trouble" if reason else "recovered", subject, reason=reason or old)
