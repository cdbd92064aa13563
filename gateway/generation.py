"""The workers that run with one plan: started together, each kept alive, retired together.

Knows nothing of other generations and of what the workers count.
"""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from gateway.child import Child, OnGuess
from gateway.guesses import Entry
from gateway.plan import Plan
from health.process import Backoff

log = logging.getLogger(__name__)

# After the drain deadline a worker cuts what is left by itself; one that hangs is killed.
KILL_MARGIN_S = 3.0


class Phase(Enum):
    """The life of a generation, forward only."""

    COMING_UP = 1
    SERVING = 2
    RETIRED = 3


class Generation:
    """`alone` says at each start whether nobody accepts clients now, `failures` which log-ins failed lately; `on_end`
    takes a worker's last word, `on_guess` what one tells of a guess.

    `backoff` is between the restarts of a worker; none is restarted while the generation is still coming up.
    """

    def __init__(
        self,
        plan: Plan,
        sockets: Mapping[str, socket.socket],
        *,
        backoff: Backoff,
        alone: Callable[[], bool],
        on_end: Callable[[Child], None],
        failures: Callable[[], Sequence[Entry]],
        on_guess: OnGuess,
    ) -> None:
        self.plan = plan
        self.sockets = sockets
        self.children: set[Child] = set()
        self.restarts = 0
        self._phase = Phase.COMING_UP
        self._backoff = backoff
        self._alone = alone
        self._on_end = on_end
        self._failures = failures
        self._on_guess = on_guess
        self._retired = asyncio.Event()
        self._keepers: set[asyncio.Task[None]] = set()

    @property
    def gone(self) -> bool:
        """True when nobody of it is left."""
        return not self._keepers

    async def start(self) -> None:
        """Start what is missing of the plan's workers. Raises OSError."""
        for _ in range(self.plan.workers - len(self._keepers)):
            child = await self._start_one()
            keeper = asyncio.create_task(self._keep(child), name=f"keep {child.pid}")
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)

    async def until_ready(self) -> None:
        """Wait until all workers serve. Raises ChildError when one ends before."""
        await asyncio.gather(*(child.until_ready() for child in self.children))

    async def serve(self) -> None:
        """From now on a worker that ends is started again. Raises OSError."""
        self._phase = Phase.SERVING
        await self.start()  # one may have ended while others were waited for

    def retire(self, number: signal.Signals) -> None:
        """Let all workers drain (SIGTERM), or end at once (SIGKILL); whoever is still there too late is killed."""
        self._phase = Phase.RETIRED
        self._retired.set()
        self._send(number)
        late = self.plan.drain_timeout + KILL_MARGIN_S
        asyncio.get_running_loop().call_later(late, self._send, signal.SIGKILL)

    async def ended(self) -> None:
        """Wait until no worker of a retired generation is left."""
        while self._keepers:
            await asyncio.wait(self._keepers)

    def _send(self, number: signal.Signals) -> None:
        for child in self.children:
            child.send_signal(number)

    async def _start_one(self) -> Child:
        # A worker that does not know the fleet leaves the clients to the others, if there are others.
        child = await Child.start(
            self.plan.worker,
            self.sockets,
            alone=self._alone(),
            failures=self._failures(),
            on_guess=self._on_guess,
        )
        self.children.add(child)
        if self._phase is Phase.RETIRED:
            child.send_signal(signal.SIGKILL)
        return child

    async def _keep(self, child: Child) -> None:
        delay = 0.0
        while True:
            code = await child.ended()
            self.children.discard(child)
            self._on_end(child)
            if self._phase is not Phase.SERVING:
                return
            self.restarts += 1
            delay = self._backoff.next(delay, child.ran)
            log.warning("worker ended", extra={"pid": child.pid, "exit_code": code, "restart_in_s": delay})
            again = await self._restart(delay)
            if again is None:
                return
            child = again

    async def _restart(self, delay: float) -> Child | None:
        """A new worker after `delay` seconds, or more where none can be started; None when the generation retires."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._retired.wait(), delay)
            if self._retired.is_set():
                return None
            try:
                return await self._start_one()
            except OSError as error:
                delay = self._backoff.next(delay, 0.0)
                log.error("worker not started", extra={"reason": error.strerror, "restart_in_s": delay})
