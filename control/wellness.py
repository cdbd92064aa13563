"""Since when nodes have been unwell, told from their scores. Monotonic times in, so a clock that jumps ends nobody.

A score says what held when it was made; one that does not change any more (the scorer stands still) says nothing.
"""

from collections.abc import Mapping

from health.model import Score

STALE_S = 15.0


class Wellness:
    """Follows the scores. `unwell`: since when, by node."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}
        self._looked = float("-inf")
        self.unwell: dict[str, float] = {}

    def look(self, scores: Mapping[str, Score], now: float) -> None:
        """Take the scores as they are at `now` (monotonic seconds). What held while nobody looked is not known."""
        if now - self._looked > STALE_S:
            self.unwell.clear()
        self._looked = now
        self._seen = {node: self._stamp(node, score, now) for node, score in scores.items()}
        for node in set(self.unwell) | set(scores):
            score = scores.get(node)
            if score is None or score.healthy or now - self._seen[node][1] > STALE_S:
                self.unwell.pop(node, None)
            else:
                self.unwell.setdefault(node, now)

    def _stamp(self, node: str, score: Score, now: float) -> tuple[float, float]:
        old = self._seen.get(node)
        return old if old is not None and old[0] == score.at else (score.at, now)
