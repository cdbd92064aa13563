"""The lab as a whole: up, down, and what it says of itself."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

from deploy.lab import engine as engines
from deploy.lab import hostnet, images, packages, product, servers, supervisor, world
from deploy.lab.client import ControlClient, seen_address
from deploy.lab.engine import Engine
from deploy.lab.leaks import LeakCounters
from deploy.lab.shell import LabError, has
from deploy.lab.state import HOST, USER, Memory, Place, check_ports, choose_ports, new_password
from health import countries

SERVING_TIMEOUT_S = 90.0
EXIT_LABEL = f"io.vpnexit.fleet={product.FLEET}"

# Says what is being done; the block inside is the doing.
Step = Callable[[str], Any]


def up(place: Place, step: Step, *, http: int, socks: int, api: int) -> Memory:
    """Bring everything up; what is up already is left alone.

    Raises:
        LabError: something is missing, taken or did not come up. What is up stays: `down` removes it.
    """
    memory = place.recall()
    place.make()
    if not supervisor.running(place):
        check_ports(memory.ports if memory else choose_ports(http, socks, api), world.PLACES)
    with step("programs"):
        packages.ensure(packages.HOST, "the lab")
    with step("Docker Engine"):
        engine = engines.ensure(place.root)
    with step("images") as tell:
        images.ensure(engine, tell)
    with step("networks and leak counters"):
        privileged = engine.privileged(images.SERVER)
        made_blackhole = hostnet.hold_range(privileged) or (memory is not None and memory.made_blackhole)
        _prepare_network(engine, privileged)
    if memory is None:
        memory = Memory(
            docker_host=engine.host,
            own_engine=engine.own,
            made_blackhole=made_blackhole,
            ports=choose_ports(http, socks, api),
            password=new_password(),
        )
        place.remember(memory)
    with step("VPN servers, whoami, API"):
        servers.write(place.servers)
        servers.start(engine, place.servers)
    with step("Redis, control, scorer, collector, two gateways, HAProxy"):
        _start_product(place, memory)
    with step("exits") as tell:
        _start_exits(place, memory, tell)
    return memory


def down(place: Place, step: Step) -> None:
    """Remove everything that `up` made, however far it came. Idempotent.

    Raises:
        LabError: something could not be removed; the text says what.
    """
    memory = place.recall()
    with step("processes"):
        supervisor.stop(place)
    with step("containers and networks"):
        engine = _engine_to_clear(place, memory)
        if engine is not None:
            _remove_containers(engine)
    with step("routes and counters"):
        _restore_network(engine, memory)
    with step("engine and files"):
        if engine is None or engine.own:
            engines.remove(place.root)
        else:
            images.remove(engine)
        shutil.rmtree(place.root, ignore_errors=True)
    if place.root.exists():
        raise LabError(f"{place.root} could not be removed: run this as the user who started the lab")


def status(place: Place) -> dict[str, Any]:
    """What `lab status --json` prints. Raises LabError where the lab is not up."""
    memory = _up(place)
    nodes = ControlClient(place, memory).nodes()
    return {
        "proxy": {"host": HOST, "port": memory.ports.http, "user": USER, "password": memory.password},
        "whoami": f"http://{world.WHOAMI}/",
        "whoami_tls": f"https://{world.WHOAMI}/",
        "api": f"http://{HOST}:{memory.ports.api}",
        "docker_host": memory.docker_host,
        "state_dir": str(place.root),
        "countries": {
            country: {
                "port": countries.port(country),
                "egress": world.egresses(country),
                "nodes": sorted(node["id"] for node in nodes if _serves(node, country)),
            }
            for country in world.PLACES
        },
    }


def processes(place: Place) -> dict[str, int]:
    """The product's processes by name. Raises LabError where the lab is not up."""
    _up(place)
    pids: dict[str, int] = supervisor.ask(place, "status")["pids"]
    return pids


def leak_counters(place: Place) -> LeakCounters:
    """The counters of the running lab. Raises LabError where the lab is not up."""
    memory = _up(place)
    engine = Engine(memory.docker_host, memory.own_engine)
    return LeakCounters(engine.privileged(images.SERVER))


def curl_lines(memory: Memory, country: str) -> list[str]:
    """Commands that leave through `country`: by user name, by port, over SOCKS."""
    wanted = f"{USER}-country-{country}:{memory.password}"
    page = f"http://{world.WHOAMI_NAME}/"
    return [
        f"curl -x http://{wanted}@{HOST}:{memory.ports.http} {page}",
        f"curl -x http://{USER}:{memory.password}@{HOST}:{countries.port(country)} {page}",
        f"curl -x socks5h://{wanted}@{HOST}:{memory.ports.socks} {page}",
    ]


def _up(place: Place) -> Memory:
    memory = place.recall()
    if memory is None:
        raise LabError("the lab is not up: run make lab")
    return memory


def _prepare_network(engine: Engine, privileged: hostnet.Privileged) -> None:
    hostnet.guard(privileged)
    if engine.own:
        hostnet.allow_bridging()
    counters = LeakCounters(privileged)
    if not counters.in_place():
        counters.set_up()


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
    for country, wished in world.PLACES.items():
        if country not in pools:
            protocol = wished.protocol.value
            control.set_pool(country, {"desired": wished.nodes, "provider": product.PROVIDER, "protocol": protocol})
    deadline = time.monotonic() + SERVING_TIMEOUT_S
    for pool in _waiting(control, tell, deadline):
        raise LabError(
            f"{pool['country']} has {pool['serving']} of {pool['desired']} exits after {SERVING_TIMEOUT_S:g} s"
            f"{': ' + pool['reason'] if pool.get('reason') else ''}; see {place.output}"
        )
    for country in world.PLACES:
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


def _serves(node: dict[str, Any], country: str) -> bool:
    return bool(node["country"] == country and node["status"] == "running")


def _engine_to_clear(place: Place, memory: Memory | None) -> Engine | None:
    if memory is not None and not memory.own_engine:
        return Engine(memory.docker_host, own=False)
    return engines.restart_for_removal(place.root)


def _remove_containers(engine: Engine) -> None:
    exits = engine.docker("ps", "--all", "--quiet", "--filter", f"label={EXIT_LABEL}").split()
    if exits:
        engine.docker("rm", "--force", "--volumes", *exits)
    servers.remove(engine)


def _restore_network(engine: Engine | None, memory: Memory | None) -> None:
    privileged = engine.privileged(images.SERVER) if engine is not None else hostnet.as_root
    if packages.is_root() and has("nft"):
        privileged = hostnet.as_root
    elif engine is None:
        return  # nothing was ever made, or nothing that this user could undo
    LeakCounters(privileged).remove()
    hostnet.unguard(privileged)
    if packages.is_root():
        hostnet.disallow_bridging()
        hostnet.remove_bridges()
    if memory is not None and memory.made_blackhole:
        hostnet.release_range(privileged)
