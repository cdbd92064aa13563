"""Control's connections to the agents of its nodes: one each, and what each said last."""

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from control.model import AgentView
from health.agent_client import AgentClient, AgentError
from health.model import Tunnel

log = structlog.get_logger()


class Agents:
    """Follows the nodes it is given. `changed` is called whenever a view changed by itself."""

    def __init__(
        self,
        socket_path: Callable[[str], str],
        changed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[..., AgentClient] = AgentClient,
    ) -> None:
        self._socket_path = socket_path
        self._changed = changed
        self._clock = clock
        self._make = connect
        self._clients: dict[str, AgentClient] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.views: dict[str, AgentView] = {}

    def follow(self, node_ids: Iterable[str]) -> None:
        """Keep a connection to each of `node_ids`, and to no other. Returns at once."""
        wanted = set(node_ids)
        for node_id in set(self.views) - wanted:
            self._drop(node_id)
        for node_id in wanted:
            self.views.setdefault(node_id, AgentView(Tunnel.STARTING, 0, self._clock()))
            if node_id not in self._tasks and self.views[node_id].tunnel is not Tunnel.UP:
                self._tasks[node_id] = asyncio.create_task(self._refresh(node_id), name=f"agent {node_id}")

    def client(self, node_id: str) -> AgentClient | None:
        """The connection to a node's agent, while there is one."""
        client = self._clients.get(node_id)
        return client if client is not None and client.connected else None

    async def close(self) -> None:
        for node_id in list(self.views):
            self._drop(node_id)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _refresh(self, node_id: str) -> None:
        client = self.client(node_id)
        try:
            if client is not None:
                hello = await client.hello()
            else:
                client = self._make(
                    self._socket_path(node_id),
                    on_state=lambda tunnel, generation: self._set(node_id, tunnel, generation),
                    on_close=lambda: self._set(node_id, Tunnel.DOWN, None, "its agent is gone"),
                )
                hello = await client.connect()
                self._clients[node_id] = client
            self._set(node_id, hello.tunnel, hello.generation, hello.reason)
        except AgentError as error:
            if self.client(node_id) is None and node_id in self.views:
                self._set(node_id, self.views[node_id].tunnel, None, str(error))
        finally:
            self._tasks.pop(node_id, None)
            if node_id not in self.views and client is not None:
                client.close()

    def _set(self, node_id: str, tunnel: str, generation: int | None, reason: str = "") -> None:
        old = self.views.get(node_id)
        if old is None:
            return
        state = Tunnel(tunnel) if tunnel in set(Tunnel) else Tunnel.DOWN
        number = old.generation if generation is None else generation
        same = (state, number) == (old.tunnel, old.generation) or (
            state is not Tunnel.UP and old.tunnel is not Tunnel.UP
        )
        self.views[node_id] = AgentView(state, number, old.since if same else self._clock(), reason)
        if not same or state is not old.tunnel:
            log.info("tunnel", node=node_id, state=state.value, generation=number, reason=reason)
            self._changed()

    def _drop(self, node_id: str) -> None:
        self.views.pop(node_id, None)
        client = self._clients.pop(node_id, None)
        if client is not None:
            client.close()
        task = self._tasks.get(node_id)
        if task is not None:
            task.cancel()
