"""`vpnexit up`: everything on this machine, without Docker, root or credentials.

A private Redis, control, two scorers and collectors (one works, one stands by) and a gateway of one worker, as children
of one supervisor. The one exit is this machine's own address. Everything is checked before anything is started, so that
a mistake ends in one clear line.
"""

import asyncio
import contextlib
import os
import shlex
import signal
import sys
import time
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from rich.console import Console

from control.config import ControlSettings, join_listen
from deploy import ports
from deploy.checks import UpError, check_ports, find_redis, only_one, socket_directory
from deploy.config import Settings, load, variable
from deploy.probes import Probe, http_ok, unix_open
from deploy.processes import Program, StartError, Supervisor
from health import countries
from health.config import default_state_dir

NO_COUNTRY = "zz"
_READY_WITHIN_S = 30.0
_STOP_MARGIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` is going to run. `redis` is the program to start; None where a running one is to be used."""

    settings: Settings
    config: Path | None
    redis: Path | None


@dataclass(frozen=True, slots=True)
class Options:
    """The command line's. `redis` is the URL of a running one to use instead of a private child."""

    config: Path | None = None
    country: str | None = None
    state_dir: Path | None = None
    redis: str | None = None


def up(options: Options) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP.

    Raises:
        ConfigError: the configuration is wrong.
        UpError: something that is needed is taken or missing.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        plan = _prepare(options, stack)
        asyncio.run(_run(plan, began))


def _prepare(options: Options, stack: contextlib.ExitStack) -> Plan:
    country = None if options.country is None else _country(options.country)
    asked = load(options.config, options.state_dir)
    if asked.redis.sentinels:
        raise UpError("redis.sentinels is set, but `up` runs on one Redis: remove it, or start the parts one by one")
    stack.enter_context(only_one(asked.state_dir))
    # The children read the same file and environment; what `up` decides for them is in the environment.
    os.environ[variable("control", "engine")] = "none"
    if country is not None or not asked.control.direct_nodes:
        os.environ[variable("control", "direct_nodes")] = country or NO_COUNTRY
    if "gateways" not in asked.control.model_fields_set:
        os.environ[variable("control", "gateways")] = _dialled(asked.gateway.metrics_listen)
    if "workers" not in asked.gateway.model_fields_set:
        os.environ[variable("gateway", "workers")] = "1"
    if "log_level" not in asked.model_fields_set:
        os.environ[variable("log_level")] = "warning"
    redis = None if options.redis else find_redis()
    # Never the configured one: that may be a fleet's, and this machine would take part in leading it.
    private = f"unix://{stack.enter_context(socket_directory(asked.state_dir)) / 'redis.sock'}"
    os.environ[variable("redis", "url")] = options.redis or private
    plan = Plan(load(options.config), options.config, redis)
    if redis is not None and plan.settings.redis.password is not None:
        raise UpError(
            "redis.password is set, but `up` starts a Redis of its own without one: remove it, or use --redis"
        )
    check_ports(plan.settings)
    return plan


def _country(text: str) -> str:
    """Raises UpError."""
    try:
        return countries.normalise(text)
    except ValueError as error:
        raise UpError(f"--country: {error}") from None


def programs(plan: Plan) -> list[list[Program]]:
    """What is started: each group side by side, one group after the other. It is stopped in the reverse order."""
    settings = plan.settings
    redis = [] if plan.redis is None else [_redis(plan.redis, settings)]
    gateway_stops_within = settings.gateway.drain_timeout + _STOP_MARGIN_S
    control = _part("control", plan, http_ok(*ports.reachable(settings.control.listen), "/api/health"))
    health = [_part("scorer", plan), _part("collector", plan)]
    # Asked through the proxy itself: 200 once an exit is chosen, 407 where it asks for a user first.
    ready = http_ok(*ports.reachable(settings.gateway.listen[0]), "http://vpnexit.internal/", good=(200, 407))
    gateway = _part("gateway", plan, ready, gateway_stops_within)
    standbys = [replace(part, name=f"{part.name}2") for part in health]
    return [redis, [control, *health, gateway], standbys]


def _redis(binary: Path, settings: Settings) -> Program:
    socket_path = settings.redis.url.removeprefix("unix://")
    # Nothing is kept on disk: control refills an empty registry from its own copy.
    options = {
        "port": "0",
        "unixsocket": socket_path,
        "unixsocketperm": "700",
        "dir": str(settings.state_dir),
        "appendonly": "no",
        "save": "",
        "daemonize": "no",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    log = settings.state_dir / "redis.log"
    return Program("redis", [binary, *words], log=log, ready=unix_open(Path(socket_path)), ready_within=_READY_WITHIN_S)


def _part(name: str, plan: Plan, ready: Probe | None = None, stop_within: float = 10.0) -> Program:
    argv = [sys.executable, "-m", "deploy.cli", name]
    if plan.config is not None:
        argv += ["--config", str(plan.config)]
    return Program(name, argv, ready=ready, ready_within=_READY_WITHIN_S, stop_within=stop_within)


async def _run(plan: Plan, began: float) -> None:
    console = Console(highlight=False)
    stop, now = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, lambda: now.set() if stop.is_set() else stop.set())
    async with Supervisor() as supervisor:
        started = asyncio.create_task(_start(supervisor, programs(plan)), name="start")
        stopped = asyncio.create_task(stop.wait(), name="stop")
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if started.done():
            started.result()
            _greet(console, plan, time.monotonic() - began)
            await stopped
        else:
            started.cancel()
            await asyncio.gather(started, return_exceptions=True)
        console.print("stopping (Ctrl-C again: at once)")
        await _stop(supervisor, now)
    console.print("stopped")


async def _start(supervisor: Supervisor, groups: list[list[Program]]) -> None:
    faults: list[str] = []
    try:
        for group in groups:
            async with asyncio.TaskGroup() as tasks:
                for program in group:
                    tasks.create_task(supervisor.start(program), name=f"start {program.name}")
    except* StartError as errors:
        faults = [str(error) for error in errors.exceptions]
    if faults:
        raise UpError("\n".join(faults))


async def _stop(supervisor: Supervisor, now: asyncio.Event) -> None:
    stopping = asyncio.create_task(supervisor.stop_all(), name="stop all")
    impatient = asyncio.create_task(now.wait(), name="impatience")
    await asyncio.wait({stopping, impatient}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        supervisor.kill_all()
    impatient.cancel()
    await stopping


def _greet(console: Console, plan: Plan, seconds: float) -> None:
    settings = plan.settings
    api = _dialled(settings.control.listen)
    countries = ", ".join(settings.control.direct_nodes)
    tries = "\n             ".join(_tries(settings))
    console.print(
        f"""
[bold]vpnexit is up[/bold] ({seconds:.1f} s)

  [bold yellow]Traffic leaves from THIS machine, with its own address.[/bold yellow]
  There is no VPN in this mode; the one exit is labelled "{countries}". `make lab` shows real tunnels.

  try it     {tries}

  API        http://{api}/api/nodes, user admin, password in {settings.state_dir / "admin.password"}
  nodes      {_command(settings, "nodes list")}
  state      {settings.state_dir}

  Ctrl-C stops everything.
""",
        soft_wrap=True,
    )


def _tries(settings: Settings) -> list[str]:
    """Commands that go through the proxy as it is configured."""
    http, socks = (_dialled(address) for address in (settings.gateway.listen[0], settings.gateway.listen[-1]))
    shown = [f"curl -x http://{http} https://example.com/", f"curl --socks5-hostname {socks} https://example.com/"]
    if not settings.gateway.require_auth and _is_loopback(settings.gateway.listen[0]):
        return shown
    # Without a password curl asks for it: it is to stand neither here nor in a shell's history.
    asked = [line.replace("https://example", "-U alice https://example") for line in shown]
    return [f"{_command(settings, 'users add alice')}   first: the proxy asks who you are", *asked]


def _is_loopback(listen: str) -> bool:
    host, _ = ports.reachable(listen)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _command(settings: Settings, words: str) -> str:
    """A command that asks this very API, also from a terminal that knows nothing of what `up` was given."""
    api, state_dir = _dialled(settings.control.listen), settings.state_dir
    state = "" if state_dir == default_state_dir() else f" --state-dir {shlex.quote(str(state_dir))}"
    other = "" if api == ControlSettings.model_fields["listen"].default else f" --api {api}"
    return f"{shlex.quote(str(Path(sys.prefix, 'bin', 'vpnexit')))} {words}{state}{other}"


def _dialled(listen: str) -> str:
    return join_listen(*ports.reachable(listen))
