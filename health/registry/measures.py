"""Samples, scores, and the sign of life of those who measure."""

from collections.abc import Iterable

from health.model import Sample, Score
from health.registry import scripts
from health.registry.base import Base
from health.registry.keys import COLLECTOR_TTL_S, EVENTS, PREFIX, SAMPLE_TTL_S, SCORE_TTL_S, SCORES, SEQUENCE
from health.registry.telling import event


class Measures(Base):
    """Samples and scores."""

    async def put_samples(self, machine: str, samples: Iterable[Sample]) -> None:
        """Write one round of a machine's samples, and that its collector lives."""
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for sample in samples:
                pipe.set(PREFIX + f"sample:{sample.node}", sample.dump(), ex=SAMPLE_TTL_S)
            pipe.set(PREFIX + f"lease:collector:{machine}", "1", ex=COLLECTOR_TTL_S)
            await pipe.execute()

    async def samples(self, node_ids: Iterable[str]) -> dict[str, Sample]:
        return await self._read("sample", node_ids, Sample)

    async def collectors(self, machines: Iterable[str]) -> set[str]:
        """Those of `machines` whose collector wrote within the last 4 s."""
        names = list(machines)
        if not names:
            return set()
        async with self._call():
            found = await self._redis.mget([PREFIX + f"lease:collector:{name}" for name in names])
        return {name for name, value in zip(names, found, strict=True) if value is not None}

    async def put_scores(self, scores: Iterable[Score]) -> None:
        """Write scores, and tell them to those who choose by them."""
        written = list(scores)
        told = "[" + ",".join(score.model_dump_json(by_alias=True, exclude={"terms"}) for score in written) + "]"
        async with self._call(), self._redis.pipeline(transaction=False) as pipe:
            for score in written:
                pipe.set(PREFIX + f"score:{score.node}", score.dump(), ex=SCORE_TTL_S)
            pipe.publish(EVENTS, event("scores", ""))
            await self._script(scripts.TELL_SCORES)(keys=[SEQUENCE], args=[SCORES, told], client=pipe)
            await pipe.execute()

    async def scores(self, node_ids: Iterable[str]) -> dict[str, Score]:
        return await self._read("score", node_ids, Score)
