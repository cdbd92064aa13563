"""`vpnexit lab …`: up, down, status, and stopping single parts to see what happens."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.lab import fleet, world
from deploy.lab import leaks as leak_counters
from deploy.lab.shell import LabError
from deploy.lab.state import Place
from health import countries

app = typer.Typer(no_args_is_help=True, help="The lab: real Docker, real tunnels, no credentials and no Internet.")
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="The lab's directory.", show_default="~/.local/state/vpnexit/lab")
]
Part = Annotated[
    str,
    typer.Argument(
        help="redis, control, collector, scorer, gateway1, gateway2, haproxy; whoami, api; docker; a VPN server: "
        + ", ".join(server.name for server in world.SERVERS)
    ),
]
PortOption = Annotated[int, typer.Option(min=1, max=65535)]


@app.command()
def up(
    state_dir: StateDir = None, port: PortOption = 3128, socks_port: PortOption = 1080, api_port: PortOption = 8080
) -> None:
    """Bring the lab up; a second time it is quick and changes nothing."""
    began = time.monotonic()
    place = Place(state_dir)
    with _one_line_errors(), place.held():
        memory = fleet.up(place, _step, http=port, socks=socks_port, api=api_port)
    console.print(f"\n[bold]the lab is up[/bold] ({time.monotonic() - began:.1f} s)\n")
    for country in world.PLACES:
        console.print(f"  {countries.name(country)}")
        for line in fleet.curl_lines(memory, country):
            console.print(f"    {line}", soft_wrap=True, markup=False)
    console.print("\n  vpnexit lab status    what runs;  make lab-down    removes it all")


@app.command()
def down(state_dir: StateDir = None) -> None:
    """Remove the lab: processes, containers, networks, the private engine, files."""
    place = Place(state_dir)
    with _one_line_errors(), place.held():
        fleet.down(place, _step)
    console.print("the lab is down")


@app.command()
def status(
    state_dir: StateDir = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False
) -> None:
    """What runs, and how to reach it."""
    place = Place(state_dir)
    with _one_line_errors():
        fleet.need_up(place)
        found = fleet.status(place, _serving(place))
        pids = {} if as_json else fleet.processes(place)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    table = Table("country", "port", "egress", "nodes")
    for country, row in found["countries"].items():
        table.add_row(country, str(row["port"]), ", ".join(row["egress"]), ", ".join(row["nodes"]) or "none")
    console.print(table)
    proxy = found["proxy"]
    console.print(
        f"proxy      http://{proxy['user']}:{proxy['password']}@{proxy['host']}:{proxy['port']}", soft_wrap=True
    )
    console.print(f"API        {found['api']}, user admin, password in {place.admin_password}", soft_wrap=True)
    console.print(f"Docker     {found['docker_host']}", soft_wrap=True)
    console.print(f"processes  {', '.join(f'{name} {pid}' for name, pid in pids.items())}", soft_wrap=True)


@app.command()
def stop(part: Part, state_dir: StateDir = None) -> None:
    """Stop one part of the lab until `start`, to see what happens."""
    with _one_line_errors():
        fleet.stop(Place(state_dir), part)


@app.command()
def start(part: Part, state_dir: StateDir = None) -> None:
    """Start what `stop` stopped."""
    with _one_line_errors():
        fleet.start(Place(state_dir), part)


@app.command()
def leaks() -> None:
    """Packets that left an exit past its tunnel, as JSON."""
    with _one_line_errors():
        counts = leak_counters.read()
    typer.echo(json.dumps({name: getattr(counts, name) for name in counts.__slots__}))


def _serving(place: Place) -> list[tuple[str, str]]:
    """None where control cannot tell: the rest of the lab's state is of use without it."""
    try:
        return fleet.serving_nodes(place)
    except LabError as error:
        errors.print(f"vpnexit: {error}", markup=False, soft_wrap=True)
        return []


@contextmanager
def _step(what: str) -> Iterator[Callable[[str], None]]:
    began = time.monotonic()
    with console.status(f"{what} …") as shown:
        yield lambda detail: shown.update(f"{what}: {detail[:100]}")
    console.print(f"  [green]✓[/green] {what} [dim]{time.monotonic() - began:.1f} s[/dim]")


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except LabError as error:
        errors.print(f"vpnexit: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
