"""The lab as a whole: up, down, and what it says of itself."""

import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from deploy.lab import engine as engines
from deploy.lab import hostnet, images, leaks, packages, product, servers, supervisor, world
from deploy.lab.client import ControlClient, seen_address
from deploy.lab.engine import Engine
from deploy.lab.shell import LabError, has
from deploy.lab.state import HOST, USER, Memory, Place, check_ports, choose_ports, new_password
from health import countries

SERVING_TIMEOUT_S = 90.0
ENGINE = "docker"
EXIT_LABEL = f"io.vpnexit.fleet={product.FLEET}"

# Says what is being done; the block inside is the doing.
Step = Callable[[str], Any]


def up(place: Place, step: Step, *, http: int, socks: int, api: int) -> Memory:
    """Bring everything up; what is up already is left alone.

    Raises:
        LabError: something is missing, taken or did not come up. What is up stays: `down` removes it.
    """
    _need_root()
    place.make()
    memory = place.recall()
    if not supervisor.running(place):
        check_ports(memory.ports if memory else choose_ports(http, socks, api), world.PLACES)
    with step("programs"):
        packages.ensure(packages.HOST, "the lab")
    with step("Docker Engine"):
        engine = _engine(place, memory)
    if memory is None:
        memory = Memory(
            docker_host=engine.host,
            own_engine=engine.own,
            made_blackhole=not hostnet.range_held(),
            ports=choose_ports(http, socks, api),
            password=new_password(),
        )
        place.remember(memory)
    with step("images") as tell:
        images.ensure(engine, tell)
    with step("networks and leak counters"):
        _prepare_network(engine)
    with step("VPN servers, whoami, API"):
        servers.write(place.servers)
        servers.start(engine, place.servers)
    with step("Redis, control, two scorers, collectors and gateways, HAProxy"):
        _start_product(place, memory)
    with step("exits") as tell:
        _start_exits(place, memory, tell)
    return memory


def down(place: Place, step: Step) -> None:
    """Remove everything that `up` made, however far it came. Idempotent.

    Raises:
        LabError: something could not be removed; the text says what.
    """
    _need_root()
    memory = _recall_if_possible(place)
    with step("processes"):
        supervisor.stop(place)
    with step("containers and networks"):
        engine = _engine_to_clear(place, memory)
        if engine is not None:
            _remove_containers(engine)
    with step("routes and counters"):
        _restore_network(memory)
    with step("engine and files"):
        if engine is None or engine.own:
            engines.remove(place.root)
        else:
            images.remove(engine)
        shutil.rmtree(place.root, ignore_errors=True)


def serving_nodes(place: Place) -> list[tuple[str, str]]:
    """Country and id of the nodes that serve. Raises LabError where control cannot tell."""
    nodes = ControlClient(place, _up(place)).nodes()
    return sorted((node["country"], node["id"]) for node in nodes if node["status"] == "running")


def need_up(place: Place) -> None:
    """Raises LabError where the lab is not up."""
    _up(place)


def status(place: Place, serving: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """What `lab status --json` prints. Raises LabError where the lab is not up."""
    memory = _up(place)
    nodes = list(serving)
    return {
        "proxy": {"host": HOST, "port": memory.ports.http, "user": USER, "password": memory.password},
        "whoami": f"http://{world.WHOAMI}/",
        "whoami_tls": f"https://{world.WHOAMI}/",
        "api": f"http://{HOST}:{memory.ports.api}",
        "metrics": {
            "gateway": [f"{HOST}:{port}" for port in memory.ports.gateways_metrics],
            "control": [f"{HOST}:{memory.ports.api}"],
            "scorer": [f"{HOST}:{memory.ports.scorer_metrics}"],
            "collector": [f"{HOST}:{memory.ports.collector_metrics}"],
            "haproxy": [f"{HOST}:{memory.ports.haproxy_metrics}"],
        },
        "docker_host": memory.docker_host,
        "state_dir": str(place.root),
        "countries": {
            country: {
                "port": countries.port(country),
                "egress": world.egresses(country),
                "nodes": [node for where, node in nodes if where == country],
            }
            for country in world.PLACES
        },
    }


def processes(place: Place) -> dict[str, int]:
    """The product's processes by name. Raises LabError where the lab is not up."""
    _up(place)
    pids: dict[str, int] = supervisor.ask(place, "status")["pids"]
    return pids


def stop(place: Place, name: str) -> None:
    """Stop one part of the lab until `start`: a process, a VPN server, or `docker`. Raises LabError."""
    memory = _up(place)
    if name == ENGINE and memory.own_engine:
        engines.stop(place.root)
    elif name in _containers():
        Engine(memory.docker_host, memory.own_engine).docker("stop", "--time", "1", _containers()[name])
    else:
        supervisor.ask(place, "stop", name)


def start(place: Place, name: str) -> None:
    """Start what `stop` stopped, and return when it is ready. Raises LabError."""
    memory = _up(place)
    if name == ENGINE and memory.own_engine:
        engines.start(place.root)
    elif name in _containers():
        servers.start(Engine(memory.docker_host, memory.own_engine), place.servers, [_containers()[name]])
    else:
        supervisor.ask(place, "start", name)


def curl_lines(memory: Memory, country: str) -> list[str]:
    """Commands that leave through `country`: by user name, by port, over SOCKS."""
    wanted = f"{USER}-country-{country}:{memory.password}"
    page = f"http://{world.WHOAMI_NAME}/"
    return [
        f"curl -x http://{wanted}@{HOST}:{memory.ports.http} {page}",
        f"curl -x http://{USER}:{memory.password}@{HOST}:{countries.port(country)} {page}",
        f"curl -x socks5h://{wanted}@{HOST}:{memory.ports.socks} {page}",
    ]


def _containers() -> dict[str, str]:
    vpn = {server.name: server.container for server in world.SERVERS}
    return vpn | {"whoami": servers.WHOAMI, "api": servers.API}


def _up(place: Place) -> Memory:
    memory = place.recall()
    if memory is None:
        raise LabError("the lab is not up: run make lab")
    return memory


def _recall_if_possible(place: Place) -> Memory | None:
    try:
        return place.recall()
    except LabError:
        return None


def _need_root() -> None:
    if sys.platform != "linux" or not packages.is_root():
        raise LabError("the lab needs root on Linux: it makes bridges, counts packets and hands files to containers")


def _prepare_network(engine: Engine) -> None:
    hostnet.hold_range()
    hostnet.guard()
    if engine.own:
        hostnet.allow_bridging()
    if not leaks.in_place():
        leaks.set_up()


def _start_product(place: Place, memory: Memory) -> None:
    place.config.write_text(product.toml(product.settings(place, memory)))
    if not supervisor.running(place):
        supervisor.launch(place)
    running = supervisor.ask(place, "status")["pids"]
    for program in product.programs(place, memory):
        if program.name not in running:
            supervisor.ask(place, "start", program.name)


def _start_exits(place: Place, memory: Memory, tell: Callable[[str], None]) -> None:
    control = ControlClient(place, memory)
    control.create_user(memory.password)
    pools = control.pools()
    for country, there in world.PLACES.items():
        if country not in pools:
            protocol = there.protocol.value
            control.set_pool(country, {"desired": there.nodes, "provider": product.PROVIDER, "protocol": protocol})
    deadline = time.monotonic() + SERVING_TIMEOUT_S
    for pool in _waiting(control, tell, deadline):
        raise LabError(
            f"{pool['country']} has {pool['serving']} of {pool['desired']} exits after {SERVING_TIMEOUT_S:g} s"
            f"{': ' + pool['reason'] if pool.get('reason') else ''}; see {place.output}"
        )
    wished = [country for country, pool in control.pools().items() if pool["desired"]]
    for country in wished:
        while (address := seen_address(memory, country)) not in world.egresses(country):
            if time.monotonic() > deadline:
                what = f"whoami sees {address}" if address else "the proxy gives no page"
                raise LabError(f"{country} serves, but {what}; see {place.output}")
            time.sleep(0.1)


def _waiting(control: ControlClient, tell: Callable[[str], None], deadline: float) -> Iterator[dict[str, Any]]:
    """Return once every pool serves what it wishes; at the deadline, the pools that do not."""
    while True:
        pools = control.pools()
        tell(", ".join(f"{country} {pool['serving']}/{pool['desired']}" for country, pool in sorted(pools.items())))
        short = [pool for pool in pools.values() if pool["serving"] < pool["desired"]]
        if not short:
            return
        if time.monotonic() > deadline:
            yield from short
            return
        time.sleep(0.2)


def _engine(place: Place, memory: Memory | None) -> Engine:
    if memory is None:
        return engines.ensure(place.root)
    return engines.again(memory.docker_host, memory.own_engine, place.root)


def _engine_to_clear(place: Place, memory: Memory | None) -> Engine | None:
    if memory is not None and not memory.own_engine:
        return Engine(memory.docker_host, own=False)
    return engines.restart_for_removal(place.root)


def _remove_containers(engine: Engine) -> None:
    if engine.own:
        engines.clear(engine)
        return
    exits = engine.docker("ps", "--all", "--quiet", "--filter", f"label={EXIT_LABEL}").split()
    if exits:
        engine.docker("rm", "--force", "--volumes", *exits)
    servers.remove(engine)


def _restore_network(memory: Memory | None) -> None:
    if has("nft"):
        leaks.remove()
        hostnet.unguard()
    hostnet.disallow_bridging()
    hostnet.remove_bridges()
    if memory is not None and memory.made_blackhole:
        hostnet.release_range()
