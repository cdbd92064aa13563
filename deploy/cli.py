"""The `vpnexit` command: starts processes, and asks the control API.

Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage or configuration.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from deploy import fleet_commands
from deploy.api_client import ApiError
from deploy.checks import UpError
from deploy.config import ConfigError, Settings, load
from deploy.fleet_commands import Config
from health import logs
from health.process import follow_parent

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A proxy in front of VPN exits in many countries.",
)
app.add_typer(fleet_commands.nodes, name="nodes")
app.add_typer(fleet_commands.pools, name="pools")
app.add_typer(fleet_commands.users, name="users")


class ProcessError(Exception):
    """A process could not go on; the text is one line."""


@app.command()
def up(
    country: Annotated[
        str | None, typer.Option(help="the country this machine counts as (default: zz, which is none)")
    ] = None,
    state_dir: Annotated[
        Path | None, typer.Option(help="where state is kept (default: ~/.local/state/vpnexit)", show_default=False)
    ] = None,
    redis: Annotated[
        str | None, typer.Option(help="a running Redis to use, as redis://HOST (default: one of its own)")
    ] = None,
    tied: Annotated[bool, typer.Option("--tied", help="end when the program that started this one ends")] = False,
    config: Config = None,
) -> None:
    """Everything on this machine, without Docker, root or credentials. Traffic leaves from this machine."""
    from deploy import up as embedded

    if tied:
        follow_parent()
    logs.configure("warning")
    embedded.up(embedded.Options(config, country, state_dir, redis))


@app.command()
def gateway(
    config: Config = None,
    plan_to: Annotated[int | None, typer.Option(hidden=True, help="only write the plan to this descriptor")] = None,
) -> None:
    """The proxy itself: a supervisor and its workers. SIGTERM drains, SIGHUP starts anew without cutting anybody."""
    from gateway import start, supervisor

    settings = load(config)
    again = [sys.executable, "-m", "deploy.cli", "gateway"]
    again += [] if config is None else ["--config", str(config.absolute())]
    plan = start.dump(
        settings.gateway, settings.redis, settings.control.machine, settings.log_level, [*again, "--plan-to"]
    )
    if plan_to is None:
        supervisor.become(plan)
    else:
        with os.fdopen(plan_to, "wb") as out:
            out.write(plan)


@app.command()
def control(config: Config = None) -> None:
    """The API, and what keeps the fleet as wished."""
    from control import main as control_main

    settings = _start(config)
    try:
        _run(control_main.run(settings.control, settings.nordvpn, settings.redis, settings.state_dir, settings.custom))
    except control_main.StartError as error:
        raise ProcessError(str(error)) from None


@app.command()
def collector(config: Config = None) -> None:
    """Asks this machine's agents once a second and writes samples."""
    from health import collector as process

    settings = _start(config)
    _run(process.run(settings.collector, settings.redis, settings.control.machine))


@app.command()
def scorer(config: Config = None) -> None:
    """Turns samples into scores; of several, one leads."""
    from health import scorer as process

    settings = _start(config)
    _run(process.run(settings.scorer, settings.redis))


def _start(config: Path | None) -> Settings:
    settings = load(config)
    logs.configure(settings.log_level)
    return settings


def _run(process: Coroutine[Any, Any, None]) -> None:
    try:
        uvloop.run(process)
    except OSError as error:
        raise ProcessError(error.strerror or str(error)) from None


def _add_lab() -> None:
    """The lab needs packages that a plain installation does not have."""
    try:
        from deploy.lab.cli import app as lab
    except ModuleNotFoundError as error:
        missing = error.name

        @app.command(name="lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
        def without_lab() -> None:
            """Three countries in Docker, without credentials or Internet."""
            raise ProcessError(f"the lab needs the Python package {missing}: install it with `make lab`")
    else:
        app.add_typer(lab, name="lab")


def main() -> None:
    """The console script."""
    if sys.argv[1:2] in (["lab"], ["--help"], []):
        _add_lab()
    try:
        app()
    except ConfigError as error:
        _fail(f"wrong configuration: {error}", 2)
    except UpError as error:
        for line in str(error).splitlines():
            print(f"vpnexit: {line}", file=sys.stderr)
        sys.exit(2)
    except (ApiError, ProcessError) as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _fail(text: str, code: int) -> None:
    print(f"vpnexit: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
