"""Since when nodes have been unwell, told from their scores. Monotonic times in, so a clock that jumps ends nobody.

A score says what held when it was made; one that does not change any more (the scorer stands still) says nothing.
"""

from collections.abc import Mapping

from health.model import Score
from health.score import MUTE

STALE_S = 15.0


class Wellness:
    """Follows the scores. `unwell`: since when, by node; `ailments`: what is wrong with it, in words."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}
        self._looked = float("-inf")
        self.unwell: dict[str, float] = {}
        self.ailments: dict[str, str] = {}

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
                self.ailments[node] = ailment(score) or self.ailments.get(node, "")
        self.ailments = {node: why for node, why in self.ailments.items() if node in self.unwell}

    def _stamp(self, node: str, score: Score, now: float) -> tuple[float, float]:
        old = self._seen.get(node)
        return old if old is not None and old[0] == score.at else (score.at, now)


def ailment(score: Score) -> str:
    """What speaks most against the node, of what makes one unhealthy (health.score); empty where nothing does."""
    mute = score.inputs.get("flow") == MUTE
    words = {
        "delivery": "{:.0%} of its probes are lost",
        "failures": "{:.0%} of the dials through it fail",
        "handshake": "its last handshake was {:.0f} s ago",
        "flow": "nothing answers through it" if mute else "it has received nothing for {:.0f} s",
    }
    worst = min(words, key=lambda term: score.terms.get(term, 1.0))
    if score.terms.get(worst, 1.0) >= 1 or worst not in score.inputs:
        return ""
    return words[worst].format(score.inputs[worst])
