"""What a supervisor is to run, and how it asks for it anew.

Small on purpose: the supervisor knows neither the settings of its workers nor how a configuration is read.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Self

ANSWER_WITHIN_S = 60.0


class PlanError(Exception):
    """There is no new plan; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `gateway.start.dump` wrote. Times are seconds.

    `worker` is for the workers, unread. `reload` is the command that makes a new plan; its last word, which is added,
    is the number of the descriptor to write it to.
    """

    listen: Sequence[str]
    metrics_listen: str
    workers: int
    drain_timeout: float
    log_level: str
    reload: Sequence[str]
    worker: Any
    metrics_token: str = ""

    @classmethod
    def read(cls, text: bytes) -> Self:
        """Where no number of workers is given, it is that of the cores this process may use.

        Raises PlanError for what another version wrote.
        """
        try:
            told = json.loads(text)
            told["workers"] = told["workers"] or len(os.sched_getaffinity(0))
            return cls(**told)
        except (ValueError, TypeError, KeyError):
            raise PlanError("the plan is not understood: stop the gateway and start it instead") from None


async def ask_anew(plan: Plan) -> Plan:
    """The plan by the configuration as it is now. Raises PlanError, with the last line that the command said."""
    ours, theirs = os.pipe()
    with os.fdopen(ours, "rb") as source:
        try:
            process = await asyncio.create_subprocess_exec(
                *plan.reload, str(theirs), pass_fds=(theirs,), stderr=asyncio.subprocess.PIPE
            )
        except OSError as error:
            raise PlanError(f"cannot run {plan.reload[0]}: {error.strerror}") from None
        finally:
            os.close(theirs)
        text, said = await _outcome(process, source)
    if process.returncode != 0:
        lines = said.decode(errors="replace").split("\n")
        raise PlanError(next((line for line in reversed(lines) if line.strip()), "it was not said what is wrong"))
    return Plan.read(text)


async def _outcome(process: asyncio.subprocess.Process, source: BinaryIO) -> tuple[bytes, bytes]:
    """All that it wrote to `source` and to its standard error; it has ended then, one way or the other."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), source)
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            text, (_, said) = await asyncio.gather(reader.read(), process.communicate())
    except TimeoutError:
        raise PlanError(f"the configuration was not read within {ANSWER_WITHIN_S:g} s") from None
    finally:
        transport.close()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    return text, said
