"""`vpnexit countries`, `best` and `stats`: the whole fleet at a glance."""

from typing import Any

import typer

from deploy.commands import output
from deploy.commands.ask import FLEET, Ask, command
from deploy.commands.output import Column
from deploy.commands.words import Country, segment
from deploy.sizes import shown_size
from health import countries

_COLUMNS = (Column("country"), Column("name"), Column("port"))


def add_to(app: typer.Typer) -> None:
    """Make these commands of `app`."""
    command(app, "countries", "vpnexit countries", panel=FLEET)(list_countries)
    command(app, "best", "vpnexit best jp", panel=FLEET)(best_node)
    command(app, "stats", "vpnexit stats --json", panel=FLEET)(stats)


def list_countries(ask: Ask) -> None:
    """Countries that a node can be started in, with the proxy's port for each."""
    found = ask.api.get("/api/countries")
    if ask.as_json:
        return output.as_json(found)
    return output.table(_COLUMNS, [_country(country) for country in found])


def best_node(ask: Ask, country: Country) -> None:
    """The node of a country that a new connection would get by score now."""
    best = ask.api.get(f"/api/load-balancer/best-node/{segment(country)}")
    if ask.as_json:
        return output.as_json(best)
    node = best.get("node") or {}
    shown = {name: value for name, value in best.items() if name != "node"}
    return output.record(shown | {"exit_ip": node.get("exit_ip"), "health_status": node.get("health_status")})


def stats(ask: Ask) -> None:
    """Nodes, traffic and clients of the whole fleet."""
    found = ask.api.get("/api/stats")
    if ask.as_json:
        return output.as_json(found)
    traffic = found.get("total_traffic")
    return output.record(found | ({"total_traffic": shown_size(traffic)} if isinstance(traffic, int) else {}))


def _country(country: Any) -> list[str]:
    code = country if isinstance(country, str) else country["code"]
    return [code, countries.name(code), str(countries.port(code))]
