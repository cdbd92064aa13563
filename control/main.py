"""Puts control together: registry, engine, provider, reconciler and API in one process."""

import asyncio
import functools
import gc
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from control import config
from control.admission import Gate, OwnAddress
from control.agents import Agents
from control.api.context import Context
from control.api.listener import serving
from control.api.server import application
from control.config import ControlSettings, CustomSettings, NordVpnSettings
from control.creating import Probing
from control.engine import Engine
from control.engine.docker import DockerEngine
from control.fleet import Fleet
from control.load import carried
from control.nodefiles import NodeFiles
from control.nodespec import Site
from control.passwords import PasswordError, admin_password
from control.placement import Placement
from control.providers import Provider, ProviderError, unknown_provider
from control.providers.custom import Custom
from control.providers.logins import read_token
from control.providers.nordvpn import NordVpn
from control.reconcile import Reconciler
from control.recovery import Keeper
from control.steps import Steps
from control.troubles import Troubles
from control.upstream_passwords import lacking
from health.config import OPEN, MetricsSettings, RedisSettings, SpeedTestSettings
from health.process import stop_signals
from health.registry import Registry

log = structlog.get_logger()

_NO_FILES = CustomSettings()
_NO_SPEED_TESTS = SpeedTestSettings()


class StartError(Exception):
    """Control cannot start: one line saying why."""


@dataclass(frozen=True, slots=True)
class _Parts:
    reconciler: Reconciler
    api: Context


async def run(
    settings: ControlSettings,
    nordvpn: NordVpnSettings,
    redis: RedisSettings,
    state_dir: Path,
    custom: CustomSettings = _NO_FILES,
    metrics: MetricsSettings = OPEN,
    upstream_passwords: Path | None = None,
    speed: SpeedTestSettings = _NO_SPEED_TESTS,
) -> None:
    """Serve the API and keep the fleet as wished, until SIGTERM or SIGINT. Exits go on running afterwards.

    `upstream_passwords` is where the gateways read the passwords of `settings.upstreams`.

    Raises:
        StartError: a provider that does not exist, a password or token file or a folder of VPN files that cannot be
            used, or an address that is taken.
    """
    providers = _providers(nordvpn, custom, state_dir)
    try:
        if settings.provider not in providers:
            raise ProviderError(f"control.provider: {unknown_provider(settings.provider, providers)}")
        password = await asyncio.to_thread(admin_password, state_dir)
        for account in nordvpn.accounts:
            await read_token(account)
        if "custom" in providers:
            await providers["custom"].countries()
        config.probe_name(settings, nordvpn)
    except (PasswordError, ProviderError, ValueError) as error:
        raise StartError(str(error)) from None
    registry = Registry.open(redis)
    engine = _engine(settings)
    try:
        parts = _assemble(settings, nordvpn, state_dir, registry, providers, engine, metrics, upstream_passwords)
        parts = replace(parts, api=replace(parts.api, speed=speed))
        await _serve(settings, parts, password)
    finally:
        for provider in set(providers.values()):
            await provider.close()
        if engine is not None:
            await engine.close()
        await registry.close()


async def _serve(settings: ControlSettings, parts: _Parts, password: str) -> None:
    host, port = config.split_listen(settings.listen)
    with stop_signals() as stop:
        try:
            async with serving(application(parts.api, password), host, port) as bound:
                # What is there now stays: the collector need not walk all of it again and again.
                gc.collect()
                gc.freeze()
                log.info(
                    "control_ready",
                    listen=config.join_listen(host, bound),
                    engine=settings.engine,
                    machine=settings.machine,
                )
                await parts.reconciler.run(stop)
        except OSError as error:
            raise StartError(f"control.listen {settings.listen}: {error.strerror or error}") from None


def _providers(nordvpn: NordVpnSettings, custom: CustomSettings, state_dir: Path) -> dict[str, Provider]:
    api = NordVpn(nordvpn, state_dir / "providers")
    found: dict[str, Provider] = {"nordvpn": api, "lab": api}
    if custom.directory is not None:
        found["custom"] = Custom(custom, custom.directory)
    return found


def _engine(settings: ControlSettings) -> Engine | None:
    if settings.engine == "none":
        return None
    return DockerEngine(settings.fleet, settings.docker_host, settings.docker_timeout, settings.machine)


def _assemble(
    settings: ControlSettings,
    nordvpn: NordVpnSettings,
    state_dir: Path,
    registry: Registry,
    providers: Mapping[str, Provider],
    engine: Engine | None,
    metrics: MetricsSettings = OPEN,
    upstream_passwords: Path | None = None,
) -> _Parts:
    token = metrics.token.get_secret_value() if metrics.token is not None else ""
    files = NodeFiles(state_dir)
    placement = Placement(registry, providers, settings.machine, files.agent_socket)
    wake = asyncio.Event()
    agents = Agents(files.agent_socket, wake.set)
    troubles = Troubles(registry)
    steps = None
    if engine is not None:
        url, name = config.insights_url(settings, nordvpn), config.probe_name(settings, nordvpn)
        own = OwnAddress(url, [str(address) for address in settings.own_addresses])
        steps = Steps(
            registry=registry,
            engine=engine,
            placement=placement,
            files=files,
            agents=agents,
            gate=Gate(url, name, own),
            site=Site(settings.fleet, settings.image, settings.network),
            probing=Probing(name, settings.probe_targets, url),
            troubles=troubles,
        )
    reconciler = Reconciler(
        settings=settings,
        registry=registry,
        keeper=Keeper(state_dir),
        files=files,
        agents=agents,
        engine=engine,
        steps=steps,
        wake=wake,
        troubles=troubles,
        moved=placement.moved,
        load=lambda: carried(settings.gateways, token),
        lacking=functools.partial(lacking, upstream_passwords or state_dir / "upstreams"),
    )
    fleet = Fleet(registry, placement, settings, reconciler.wake, elsewhere=reconciler.elsewhere)
    context = Context(
        fleet=fleet,
        registry=registry,
        reconciler=reconciler,
        files=files,
        providers=providers,
        default_provider=settings.provider,
        changed=reconciler.wake,
        engine=engine,
        gateways=settings.gateways,
        metrics_token=token,
        certificates=settings.certificates,
        metrics_open=settings.metrics_open,
    )
    return _Parts(reconciler, context)
