"""`vpnexit pools`: how many exits a country shall have, and how they are chosen."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from deploy.commands import output, waiting
from deploy.commands.ask import Ask, command
from deploy.commands.output import Column
from deploy.commands.waiting import Timeout, Wait
from deploy.commands.words import Country, decimal, number, segment, word, words

MOST = 10  # what the API takes for one country

app = typer.Typer(no_args_is_help=True, help="How many exits each country shall have.")

_COLUMNS = (
    Column("country"),
    Column("name", wide=True),
    Column("port"),
    Column("serving", justify="right"),
    Column("strategy"),
    Column("by"),
    Column("waits for", folds=True),
)


@command(app, "list", "vpnexit pools list")
def list_pools(ask: Ask) -> None:
    """All countries that have a pool."""
    found = ask.api.get("/api/pools")
    if ask.as_json:
        return output.as_json(found)
    return output.table(_COLUMNS, [_row(pool) for pool in found])


@command(app, "show", "vpnexit pools show jp")
def show_pool(ask: Ask, country: Country) -> None:
    """Everything about one pool."""
    ask.record(ask.api.get(f"/api/pools/{segment(country)}"))


@command(app, "set", "vpnexit pools set jp --min 2 --max 6 --strategy least_connections")
def set_pool(
    ask: Ask,
    country: Country,
    desired: Annotated[
        int | None, typer.Option(metavar="N", min=0, max=MOST, help="Nodes it shall have.", show_default=False)
    ] = None,
    least: Annotated[
        int | None, typer.Option("--min", metavar="N", min=0, max=MOST, help="Never fewer.", show_default=False)
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", metavar="N", min=0, max=MOST, help="Never more.", show_default=False)
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(metavar="NAME", help="round_robin, least_connections, weighted_latency, random or health_score."),
    ] = "",
    provider: Annotated[str, typer.Option(metavar="NAME", help="Where its VPN servers come from.")] = "",
    protocol: Annotated[str, typer.Option(metavar="NAME", help="openvpn_udp, openvpn_tcp or wireguard.")] = "",
    fallback: Annotated[
        str, typer.Option(metavar="COUNTRIES", help="Countries to use when none serves, as us,gb; `none` for none.")
    ] = "",
    rotate_hours: Annotated[
        str, typer.Option(metavar="HOURS", help="Replace its nodes by fresh ones every so many hours; `none`: never.")
    ] = "",
    target_connections: Annotated[
        str,
        typer.Option(
            metavar="N", help="Between --min and --max, as many nodes as N connections each need; `none`: not by load."
        ),
    ] = "",
    version: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=2**53,
            help="Only if it still has the version that `show` gave; else 409.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Change a pool; what is not named stays as it is."""
    wish: dict[str, Any] = {
        "desired": desired,
        "min": least,
        "max": most,
        "strategy": word(strategy) or None,
        "provider": word(provider) or None,
        "protocol": word(protocol) or None,
        "fallback": words(fallback) if fallback else None,
    }
    body = {name: value for name, value in wish.items() if value is not None}
    if rotate_hours:
        body["rotate_hours"] = decimal(rotate_hours)
    if target_connections:
        body["target_connections"] = number(target_connections)
    if not body:
        raise typer.BadParameter("nothing to change: name at least one of the options")
    if version is not None:
        body["version"] = version
    pool = ask.api.put(f"/api/pools/{segment(country)}", body)
    ask.answer(pool, waiting.pool_stand(pool).text)


@command(app, "scale", "vpnexit pools scale jp 3 --wait")
def scale_pool(
    ask: Ask,
    country: Country,
    wanted: Annotated[int, typer.Argument(metavar="N", help="Nodes it shall have.", min=0, max=MOST)],
    wait: Wait = False,
    timeout: Timeout = 120,
) -> None:
    """Give a country N nodes."""
    path = f"/api/pools/{segment(country)}"
    pool = ask.api.post(f"{path}/scale", {"nodes": wanted})
    if wait:
        pool, _ = waiting.until(lambda: ask.api.get(path), waiting.pool_stand, timeout)
    ask.answer(pool, waiting.pool_stand(pool).text)


@command(app, "rotate", "vpnexit pools rotate jp --wait")
def rotate_pool(ask: Ask, country: Country, wait: Wait = False, timeout: Timeout = 300) -> None:
    """Replace every node of a country by a fresh one, one after the other; nobody is cut off before the deadline."""
    path = f"/api/pools/{segment(country)}"
    old = set(ask.api.get(path)["nodes"]) if wait else set()
    pool = ask.api.post(f"{path}/rotate", {})
    if wait:
        pool, _ = waiting.until(lambda: ask.api.get(path), lambda now: waiting.rotation_stand(now, old), timeout)
    ask.answer(pool, waiting.pool_stand(pool).text)


@command(app, "remove", "vpnexit pools remove jp")
def remove_pool(ask: Ask, country: Country) -> None:
    """Forget a pool that wants no node and has none left (`pools scale jp 0` first)."""
    ask.answer(ask.api.delete(f"/api/pools/{segment(country)}"), f"the pool of {country} is removed")


def _row(pool: Mapping[str, Any]) -> list[str]:
    return [
        pool["country"],
        pool["name"],
        str(pool["port"] or ""),
        f"{pool['serving']}/{pool['desired']}",
        pool["strategy"],
        " ".join(word for word in (pool["provider"], pool["protocol"]) if word),
        pool["reason"],
    ]
