"""The `vpnexit` command: starts processes, and asks the control API.

What goes wrong ends in one line on standard error, and an exit code: see `_EPILOG`.
"""

import asyncio
import errno
import io
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from deploy.api_client import ApiError
from deploy.checks import UpError
from deploy.commands import doctor, events, nodes, overview, pools, tokens, users
from deploy.commands.ask import FLEET, Config
from deploy.commands.output import harmless, note
from deploy.config import ConfigError, Settings, load
from health import logs
from health.process import follow_parent

LONGEST_ARGUMENT = 4096  # PATH_MAX (Linux); nothing that is meant is longer

_EPILOG = (
    "Exit codes: 0 done; 1 refused by the API, or failed; 2 wrong usage or configuration; 3 the API was not reached; "
    "130 ended by Ctrl-C."
)
_PROCESSES = "Processes"
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A proxy in front of VPN exits in many countries.",
    epilog=_EPILOG,
)
for topic, name in ((nodes, "nodes"), (pools, "pools"), (users, "users"), (tokens, "tokens")):
    app.add_typer(topic.app, name=name, rich_help_panel=FLEET)
overview.add_to(app)
events.add_to(app)
doctor.add_to(app)


class ProcessError(Exception):
    """A process could not go on; the text is one line."""


@app.command(rich_help_panel="On one machine")
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


@app.command(rich_help_panel=_PROCESSES)
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


@app.command(rich_help_panel=_PROCESSES)
def control(config: Config = None) -> None:
    """The API, and what keeps the fleet as wished."""
    from control import main as control_main

    settings = _start(config)
    try:
        _run(
            control_main.run(
                *(settings.control, settings.nordvpn, settings.redis, settings.state_dir, settings.custom),
                speed=settings.speed_test,
            )
        )
    except control_main.StartError as error:
        raise ProcessError(str(error)) from None


@app.command(rich_help_panel=_PROCESSES)
def collector(config: Config = None) -> None:
    """Asks this machine's agents once a second and writes samples."""
    from health import collector as process

    settings = _start(config)
    _run(process.run(settings.collector, settings.redis, settings.control.machine, speed=settings.speed_test))


@app.command(rich_help_panel=_PROCESSES)
def scorer(config: Config = None) -> None:
    """Turns samples into scores; of several, one leads."""
    from health import scorer as process

    settings = _start(config)
    _run(process.run(settings.scorer, settings.redis))


@app.command(rich_help_panel="On one machine", epilog="Example: vpnexit image --config /etc/vpnexit.toml")
def image(
    tag: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its name. Without it, control.image of the configuration.")
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="A Debian 12 to build on; pulled where it is missing.")
    ] = "debian:bookworm-slim",
    config: Config = None,
) -> None:
    """Build the image of the exits, with the Docker Engine they are to run on."""
    from deploy.exit.build import BuildError
    from deploy.exit.command import build

    settings = load(config)
    try:
        build(settings.control.docker_host, tag or settings.control.image, base, note)
    except BuildError as error:
        raise ProcessError(str(error)) from None


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

        @app.command(
            name="lab",
            rich_help_panel="On one machine",
            context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        )
        def without_lab() -> None:
            """Three countries in Docker, without credentials or Internet."""
            raise ProcessError(f"the lab needs the Python package {missing}: install it with `make lab`")
    else:
        app.add_typer(lab, name="lab", rich_help_panel="On one machine")


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that knows no umlauts is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    _check_arguments(sys.argv[1:])
    try:
        try:
            _run_app()
        finally:
            sys.stdout.flush()  # else what cannot be written is a traceback at the interpreter's end
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"cannot write to standard output: {error.strerror}", 1)


def _run_app() -> None:
    if sys.argv[1:2] in (["lab"], ["--help"], []):
        _add_lab()
    try:
        app(prog_name="vpnexit")
    except ConfigError as error:
        _fail(f"wrong configuration: {error}", 2)
    except UpError as error:
        for line in str(error).splitlines():
            print(f"vpnexit: {line}", file=sys.stderr)
        sys.exit(2)
    except ApiError as error:
        _fail(str(error), error.exit_code)
    except ProcessError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)


def _check_arguments(arguments: list[str]) -> None:
    for number, argument in enumerate(arguments, 1):
        if len(argument) > LONGEST_ARGUMENT:
            _fail(f"argument {number} is {len(argument):,} characters long: at most {LONGEST_ARGUMENT:,}", 2)


def _fail(text: str, code: int) -> None:
    print(f"vpnexit: {harmless(text)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
