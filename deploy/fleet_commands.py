"""`vpnexit nodes`, `pools` and `users`: the control API on the command line."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from deploy.api_client import ApiClient, ApiError, read_password
from deploy.config import load
from deploy.ports import reachable
from deploy.sizes import parse_size, shown_size

nodes = typer.Typer(no_args_is_help=True, help="Exits: list, start, stop.")
pools = typer.Typer(no_args_is_help=True, help="How many exits each country shall have.")
users = typer.Typer(no_args_is_help=True, help="Who may use the proxy.")

Config = Annotated[Path | None, typer.Option("--config", help="configuration file (TOML)", show_default=False)]
Api = Annotated[
    str | None, typer.Option("--api", envvar="VPNEXIT_API", help="the API's address, if not the configured one")
]
AsJson = Annotated[bool, typer.Option("--json", help="as JSON, for programs")]
Country = Annotated[str, typer.Argument(help="two letters, such as jp")]
NodeId = Annotated[str, typer.Argument(metavar="ID", help="as `nodes list` shows it")]


def _amount(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


_STATUS_STYLE = {"running": "green", "starting": "yellow", "stopping": "yellow", "error": "red"}


def client(config: Path | None, api: str | None) -> ApiClient:
    """The API that the configuration names. Raises ConfigError or ApiError."""
    settings = load(config)
    host, port = reachable(settings.control.listen)
    address = api or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return ApiClient(address, read_password(settings.state_dir))


@nodes.command("list")
def list_nodes(config: Config = None, api: Api = None, as_json: AsJson = False) -> None:
    """All nodes, one a line."""
    found = client(config, api).get("/api/nodes")
    if as_json:
        return _json(found)
    rows = [
        [
            node["id"],
            node["country"],
            node["kind"],
            _status(node["status"]),
            node["health_status"],
            "" if node["score"] is None else f"{node['score']:.0f}",
            node["exit_ip"] or "",
            node["vpn_server"] or node["upstream"] or "",
            node["reason"],
        ]
        for node in found
    ]
    return _table(["id", "country", "kind", "status", "health", "score", "exit address", "server", "reason"], rows)


@nodes.command("show")
def show_node(node_id: NodeId, config: Config = None, api: Api = None) -> None:
    """Everything about one node, as JSON."""
    _json(client(config, api).get(f"/api/nodes/{_segment(node_id)}"))


@nodes.command("start")
def start_node(
    country: Country,
    server: Annotated[str, typer.Option(help="a certain VPN server")] = "",
    city: Annotated[str, typer.Option(help="a certain city")] = "",
    protocol: Annotated[str, typer.Option(help="openvpn_udp, openvpn_tcp or wireguard")] = "",
    config: Config = None,
    api: Api = None,
    as_json: AsJson = False,
) -> None:
    """Start one more node of a country."""
    wish = {"server": server, "city": city, "protocol": protocol}
    body = {name: value for name, value in wish.items() if value}
    answer = client(config, api).post(f"/api/nodes/{_segment(country)}/start", body)
    _answer(answer, f"{answer['node_id']} is {answer['status']}", as_json)


@nodes.command("stop")
def stop_node(node_id: NodeId, config: Config = None, api: Api = None, as_json: AsJson = False) -> None:
    """Drain a node, then stop it; its country has one node less from then on."""
    answer = client(config, api).delete(f"/api/nodes/{_segment(node_id)}/stop")
    _answer(answer, f"{answer['node_id']} is {answer['status']}", as_json)


@nodes.command("logs")
def node_logs(
    node_id: NodeId,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000)] = 100,
    config: Config = None,
    api: Api = None,
) -> None:
    """The last lines of a node's log."""
    sys.stdout.write(client(config, api).get(f"/api/nodes/{_segment(node_id)}/logs", lines=lines)["logs"])


@pools.command("list")
def list_pools(config: Config = None, api: Api = None, as_json: AsJson = False) -> None:
    """All countries that have a pool."""
    found = client(config, api).get("/api/pools")
    if as_json:
        return _json(found)
    rows = [
        [
            pool["country"],
            pool["name"],
            str(pool["port"] or ""),
            f"{pool['serving']}/{pool['desired']}",
            pool["strategy"],
            f"{pool['provider']} {pool['protocol']}",
            pool["reason"],
        ]
        for pool in found
    ]
    return _table(["country", "name", "port", "serving", "strategy", "by", "waits for"], rows)


@pools.command("show")
def show_pool(country: Country, config: Config = None, api: Api = None) -> None:
    """Everything about one pool, as JSON."""
    _json(client(config, api).get(f"/api/pools/{_segment(country)}"))


@pools.command("scale")
def scale_pool(
    country: Country,
    wanted: Annotated[int, typer.Argument(metavar="N", help="nodes it shall have", min=0)],
    config: Config = None,
    api: Api = None,
    as_json: AsJson = False,
) -> None:
    """Give a country N nodes."""
    pool = client(config, api).post(f"/api/pools/{_segment(country)}/scale", {"nodes": wanted})
    _answer(pool, f"{pool['country']}: {pool['serving']} of {pool['desired']} serving", as_json)


@users.command("list")
def list_users(config: Config = None, api: Api = None, as_json: AsJson = False) -> None:
    """All proxy users."""
    found = client(config, api).get("/api/users")
    if as_json:
        return _json(found)
    rows = [
        [
            user["name"],
            ", ".join(user["allowed_countries"]) or "all",
            user["default_country"] or "",
            str(user["max_connections"] or ""),
            _size(user["bytes_per_second"], "/s"),
            _size(user["month_bytes"]),
            _size(user["monthly_bytes"]),
        ]
        for user in found
    ]
    return _table(["name", "countries", "default", "connections", "rate", "this month", "of"], rows)


@users.command("show")
def show_user(name: Annotated[str, typer.Argument()], config: Config = None, api: Api = None) -> None:
    """Everything about one proxy user, as JSON."""
    _json(client(config, api).get(f"/api/users/{_segment(name)}"))


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="letters, digits, dots and underscores; no dash")],
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", help="read the password from here; - is standard input", show_default=False),
    ] = None,
    countries: Annotated[str, typer.Option(help="the only countries allowed, as jp,us")] = "",
    default_country: Annotated[str, typer.Option(help="where connections go that name no country")] = "",
    connections: Annotated[int | None, typer.Option(help="most connections at once", show_default=False)] = None,
    rate: Annotated[
        int | None,
        typer.Option(parser=_amount, metavar="SIZE", help="bytes per second each way, as 10MB", show_default=False),
    ] = None,
    monthly: Annotated[
        int | None,
        typer.Option(
            parser=_amount, metavar="SIZE", help="bytes per calendar month (UTC), as 50GB", show_default=False
        ),
    ] = None,
    config: Config = None,
    api: Api = None,
    as_json: AsJson = False,
) -> None:
    """Add a proxy user. The password is asked for, or read from a file; never an argument."""
    body: dict[str, Any] = {"name": name, "password": _read_password(password_file)}
    if countries:
        body["allowed_countries"] = [word.strip() for word in countries.split(",")]
    if default_country:
        body["default_country"] = default_country
    limits = {"max_connections": connections, "bytes_per_second": rate, "monthly_bytes": monthly}
    body |= {field: limit for field, limit in limits.items() if limit is not None}
    user = client(config, api).post("/api/users", body)
    _answer(user, f"{user['name']} may use the proxy", as_json)


@users.command("remove")
def remove_user(
    name: Annotated[str, typer.Argument()], config: Config = None, api: Api = None, as_json: AsJson = False
) -> None:
    """Remove a proxy user."""
    answer = client(config, api).delete(f"/api/users/{_segment(name)}")
    _answer(answer, f"{name} is removed", as_json)


def _read_password(file: Path | None) -> str:
    if file is None:
        if not sys.stdin.isatty():
            raise ApiError("no terminal to ask for the password: use --password-file FILE, or - for standard input")
        return str(typer.prompt("password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ApiError(f"cannot read {file}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    return text.rstrip("\r\n")


def _segment(word: str) -> str:
    """`word` as one segment of a path. Raises typer.BadParameter where it cannot be a name."""
    if not word or not all(letter.isascii() and (letter.isalnum() or letter in "._") for letter in word):
        raise typer.BadParameter(f"{word!r}: letters, digits, dots and underscores only")
    return word


def _size(amount: int | None, per: str = "") -> str:
    return "" if amount is None else shown_size(amount) + per


def _status(status: str) -> str:
    style = _STATUS_STYLE.get(status)
    return f"[{style}]{status}[/{style}]" if style else status


def _answer(answer: Any, text: str, as_json: bool) -> None:
    if as_json:
        _json(answer)
    else:
        print(text)


def _json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _table(columns: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    # Into a pipe goes every column whole: a program cuts it, not we.
    console.print(table, soft_wrap=not console.is_terminal) if rows else print("none")
