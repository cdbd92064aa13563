"""The gateway's first process: opens the listening sockets, keeps workers on them, and says how they are.

SIGTERM and SIGINT drain: not ready at once, no new clients, and those that are there have `drain_timeout` seconds; a
second signal ends at once. SIGHUP starts anew without refusing or cutting a connection: the configuration is read
again, new workers (with the code that is on disk now) take over the same sockets, and only when all of them serve do
the old ones drain. If they do not come up, the old ones stay.

Run as `python -m gateway.supervisor FD`, FD being where the plan is to be read. Carries no traffic and stays small.
What workers that ended have counted is kept and added to what those count that live, so that no number falls or
doubles when one dies. It hands on between workers what each tells of failed log-ins, and tells a new one all of it.
"""

import asyncio
import copy
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence

from gateway import log_lines, metrics
from gateway.child import Child, ChildError
from gateway.generation import Generation
from gateway.guesses import Guesses, read_word
from gateway.line_writer import LineWriter
from gateway.metrics import Counters
from gateway.plan import Plan, PlanError, ask_anew
from gateway.resources import listening_socket, raise_descriptor_limit
from health.monitor import Monitor
from health.process import Backoff

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 0.5
UP_WITHIN_S = 60.0
_STILL_THE_OLD = "not started anew, what runs goes on"


class Supervisor:
    """Runs one gateway on `sockets`. `lines` is where it logs, `backoff` between the restarts of a worker."""

    def __init__(self, plan: Plan, sockets: Mapping[str, socket.socket], lines: LineWriter, backoff: Backoff) -> None:
        self._lines = lines
        self._backoff = backoff
        self._past: Counters = {}
        self._past_restarts = 0
        self._guesses = Guesses()
        self._stopping = False
        self._monitor = Monitor(self._ready, self._show, listening_socket, plan.metrics_token)
        self._generations: list[Generation] = []
        self._serving = self._generation(plan, sockets)

    async def run(self, stop: asyncio.Event, now: asyncio.Event, anew: asyncio.Event) -> None:
        """Serve until `stop`, then drain, until `now`; start anew whenever `anew` is set.

        Raises OSError where it cannot start.
        """
        plan = self._serving.plan
        await self._monitor.listen(plan.metrics_listen)
        try:
            await self._serving.serve()
            log.info("gateway listening", extra=_shown(plan))
            while await _unless(stop, anew.wait()):
                anew.clear()
                await _unless(stop, self._start_anew())
            self._stopping = True
            log.info("gateway draining", extra={"workers": len(self._children())})
            self._retire_all(signal.SIGTERM)
            await _unless(now, self._ended())
        finally:
            self._retire_all(signal.SIGKILL)
            await self._ended()
            self._monitor.close()

    def _generation(self, plan: Plan, sockets: Mapping[str, socket.socket]) -> Generation:
        made = Generation(
            plan,
            sockets,
            backoff=self._backoff,
            alone=self._nobody_listens,
            on_end=self._keep_counts,
            failures=lambda: self._guesses.dump(time.monotonic()),
            on_guess=self._hand_on,
        )
        self._generations.append(made)
        return made

    def _children(self) -> list[Child]:
        return [child for generation in self._generations for child in generation.children]

    def _nobody_listens(self) -> bool:
        return not any(child.listening for child in self._children())

    def _keep_counts(self, child: Child) -> None:
        metrics.merge(self._past, child.counters)

    def _hand_on(self, teller: Child, said: object) -> None:
        try:
            word = read_word(said)
        except ValueError as error:
            log.error("not understood", extra={"pid": teller.pid, "reason": str(error)})
            return
        self._guesses.hear(word, time.monotonic())
        for child in self._children():
            if child is not teller:
                child.tell(word)

    def _retire_all(self, number: signal.Signals) -> None:
        for generation in self._generations:
            generation.retire(number)
            _close(generation.sockets)

    async def _ended(self) -> None:
        await asyncio.gather(*(generation.ended() for generation in self._generations))

    async def _start_anew(self) -> None:
        try:
            plan = await ask_anew(self._serving.plan)
            await self._replace(plan)
        except TimeoutError:
            _still_the_old(f"no new workers within {UP_WITHIN_S:g} s")
        except (PlanError, ChildError, OSError) as error:
            _still_the_old((error.strerror if isinstance(error, OSError) else None) or str(error))
        except Exception:  # a mistake of ours must not end what runs
            log.exception(_STILL_THE_OLD)
        else:
            log.info("gateway started anew", extra=_shown(plan))

    async def _replace(self, plan: Plan) -> None:
        """Raises PlanError, ChildError, OSError or TimeoutError; then everything is as before."""
        old = self._serving
        sockets: dict[str, socket.socket] = {}
        new = self._generation(plan, sockets)
        try:
            for address in plan.listen:
                sockets[address] = old.sockets.get(address) or listening_socket(address)
            await new.start()
            async with asyncio.timeout(UP_WITHIN_S):
                await new.until_ready()
            await self._monitor.listen(plan.metrics_listen)
            self._monitor.token = plan.metrics_token
        except BaseException:
            new.retire(signal.SIGKILL)
            _close(sockets, but=old.sockets)
            raise
        self._serving = new
        old.retire(signal.SIGTERM)
        _close(old.sockets, but=sockets)
        await new.serve()

    def _ready(self) -> bool:
        return not self._stopping and any(child.ready for child in self._children())

    async def _show(self) -> bytes:
        from gateway.exposition import exposition  # only who is asked needs prometheus-client

        await _answers(self._children())
        children = self._children()
        self._forget(children)
        counters = copy.deepcopy(self._past)
        carried: Counter[str] = Counter()
        panic: dict[str, bool] = {}
        for child in children:
            metrics.merge(counters, child.counters)
            carried.update(child.carried)
            panic |= {country: there or panic.get(country, False) for country, there in child.panic.items()}
        _forget_nodes(counters, children)
        metrics.merge(counters, {metrics.TOTALS: {(): [0, self._lines.dropped]}})
        restarts = self._past_restarts + sum(generation.restarts for generation in self._generations)
        return exposition(counters, _gauges(children), restarts, carried, panic)

    def _forget(self, children: Sequence[Child]) -> None:
        _forget_nodes(self._past, children)
        for generation in [g for g in self._generations if g is not self._serving and g.gone]:
            self._generations.remove(generation)
            self._past_restarts += generation.restarts


def _shown(plan: Plan) -> dict[str, object]:
    return {"listen": plan.listen, "metrics": plan.metrics_listen, "workers": plan.workers}


def _still_the_old(reason: str) -> None:
    log.error(_STILL_THE_OLD, extra={"reason": reason})


def _forget_nodes(counters: Counters, children: Sequence[Child]) -> None:
    if any(child.ready for child in children):
        metrics.forget(counters, {node for child in children for node in child.nodes})


async def _answers(children: Sequence[Child]) -> None:
    """Let every worker tell how it is; what one said last counts where it does not answer in time."""
    asked = [asyncio.create_task(child.ask(), name=f"ask {child.pid}") for child in children]
    if asked:
        _, late = await asyncio.wait(asked, timeout=ANSWER_WITHIN_S)
        for task in late:
            task.cancel()


def _gauges(children: Sequence[Child]) -> dict[str, float]:
    def of(name: str) -> list[float]:
        return [child.gauges[name] for child in children if name in child.gauges]

    summed = {name: sum(of(name)) for child in children for name in child.gauges}
    return summed | {
        "snapshot_age_seconds": max(of("snapshot_age_seconds"), default=0.0),
        "usable_nodes": min((child.gauges.get("usable_nodes", 0.0) for child in children), default=0.0),
        "workers": len(children),
    }


def _close(sockets: Mapping[str, socket.socket], but: Mapping[str, socket.socket] | None = None) -> None:
    kept = (but or {}).values()
    for sock in sockets.values():
        if sock not in kept:
            sock.close()


async def _unless(stop: asyncio.Event, work: Awaitable[object]) -> bool:
    """Do `work` until it ends or `stop` is set, which cancels it; False where `stop` is set."""
    working = asyncio.ensure_future(work)
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return not stop.is_set()


async def run(plan: Plan, sockets: Mapping[str, socket.socket]) -> None:
    """Run a gateway with its signals, until it is told to end. Raises OSError where it cannot start."""
    stop, now, anew = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: now.set() if stop.is_set() else stop.set())
    loop.add_signal_handler(signal.SIGHUP, anew.set)
    lines = LineWriter(sys.stderr.fileno())
    log_lines.configure(plan.log_level, lines)
    try:
        await Supervisor(plan, sockets, lines, Backoff()).run(stop, now, anew)
    finally:
        lines.close()


def main() -> None:
    """Exit code 0 after a drain, 1 where something needed is not there; one line says what."""
    with os.fdopen(int(sys.argv[1]), "rb") as source:
        plan = Plan.read(source.read())
    raise_descriptor_limit()
    try:
        asyncio.run(run(plan, {address: listening_socket(address) for address in plan.listen}))
    except OSError as error:
        sys.exit(f"vpnexit: {error.strerror or error}")


def become(plan: bytes) -> None:
    """Turn this process into the supervisor of a gateway with `plan`. Does not return."""
    held = os.memfd_create("plan", 0)
    os.write(held, plan)
    os.lseek(held, 0, os.SEEK_SET)
    os.execv(sys.executable, [sys.executable, "-m", "gateway.supervisor", str(held)])  # noqa: S606 - fixed words


if __name__ == "__main__":
    main()
