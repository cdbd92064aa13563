"""Makes a node's container: its files first, then the container by the one name that derives from its claim."""

import asyncio
from dataclasses import dataclass
from typing import Any

from control.engine import Engine, EngineError, NameTakenError
from control.model import Container
from control.nodefiles import NodeFiles
from control.nodespec import Site, container_body, container_name
from control.placement import Placement
from control.providers import Material, split_endpoint
from health.model import Node


@dataclass(frozen=True, slots=True)
class Probing:
    """What exits ask through their tunnels: a name, numeric targets with ports, and how they look from outside."""

    name: str
    targets: tuple[str, ...] = ()
    insights_url: str = ""


class Creator:
    """Creates containers and starts none."""

    def __init__(self, engine: Engine, placement: Placement, files: NodeFiles, site: Site, probing: Probing) -> None:
        self._engine = engine
        self._placement = placement
        self._files = files
        self._site = site
        self._probing = probing

    async def make(self, node: Node, epoch: str) -> str:
        """The id of the container of `node`, made now or by another instance in the meantime.

        Raises EngineError, ProviderError, NodeFilesError, and ValueError for a record without an endpoint.
        """
        material = await self._placement.provider(node.provider).material(node)
        config = node_config(node, material, self._probing)
        await asyncio.to_thread(self._files.write, node.id, config, material.files)
        agent, files = self._files.agent_dir(node.id), self._files.config_dir(node.id)
        name = container_name(node.id)
        try:
            body = container_body(self._site, node, epoch, agent, files)
            return await self._engine.create(name, body, node.machine)
        except NameTakenError:
            container = await self.find(node.id)
            if container is None:
                raise EngineError(f"the name {name} is taken by a container that is not ours") from None
            return container.id

    async def find(self, node_id: str) -> Container | None:
        """The container of a node, if there is one. Raises EngineError."""
        return next((found for found in await self._engine.containers() if found.node == node_id), None)


def node_config(node: Node, material: Material, probing: Probing) -> dict[str, Any]:
    """What node.json tells the exit. Nothing secret. Raises ValueError for a record without an endpoint."""
    address, port, transport = split_endpoint(node.endpoint)
    config: dict[str, Any] = {
        "schema": 1,
        "node": node.id,
        "country": node.country,
        "provider": node.provider,
        "account": node.account,
        "server": node.vpn_server,
        "protocol": str(node.protocol),
        "endpoint": {"address": address, "port": port, "transport": transport},
        "dns": list(material.dns),
        "probe_name": probing.name,
        "targets": list(probing.targets),
        "insights_url": probing.insights_url,
    }
    if material.address:
        config |= {"address": material.address, "server_public_key": material.server_public_key}
    return config
