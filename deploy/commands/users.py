"""`vpnexit users`: who may use the proxy, and how much of it."""

import inspect
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.api_client import ApiError
from deploy.commands import output
from deploy.commands.ask import Ask, command, option
from deploy.commands.output import Column
from deploy.commands.words import UserName, amount, number, read_secret, segment, user_name, word, words
from deploy.sizes import shown_size

app = typer.Typer(no_args_is_help=True, help="Who may use the proxy.")

_COLUMNS = (
    Column("name"),
    Column("countries", folds=True),
    Column("default", wide=True),
    Column("connections", justify="right"),
    Column("rate", justify="right"),
    Column("this month", justify="right"),
    Column("of", justify="right"),
)

PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", metavar="FILE", help="Read the password from here; - is standard input."),
]


def _limit(name: str, metavar: str, text: str) -> inspect.Parameter:
    return option(name, Annotated[str, typer.Option(metavar=metavar, help=text)], "")


_LIMITS = (
    _limit("countries", "COUNTRIES", "The only countries allowed, as jp,us; `none` for no such limit."),
    _limit("default_country", "COUNTRY", "Where connections go that name no country; `none` for no such wish."),
    _limit("connections", "N", "Most connections at once; `none` for no limit."),
    _limit("rate", "SIZE", "Bytes per second each way, as 10MB; `none` for no limit."),
    _limit("monthly", "SIZE", "Bytes per calendar month (UTC), as 50GB; `none` for no limit."),
)


@command(app, "list", "vpnexit users list")
def list_users(ask: Ask) -> None:
    """All proxy users, with what they used this month."""
    found = ask.api.get("/api/users")
    if ask.as_json:
        return output.as_json(found)
    return output.table(_COLUMNS, [_row(user) for user in found])


@command(app, "show", "vpnexit users show alice")
def show_user(ask: Ask, name: UserName) -> None:
    """Everything about one proxy user."""
    ask.record(ask.api.get(f"/api/users/{segment(name)}"))


@command(
    app, "add", "vpnexit users add bob --countries jp,us --connections 20 --rate 10MB --monthly 50GB", more=_LIMITS
)
def add_user(ask: Ask, name: UserName, password_file: PasswordFile = None, **limits: str) -> None:
    """Add a proxy user. The password is asked for, or read from a file; never an argument."""
    body: dict[str, Any] = {"name": user_name(name)}
    body |= {field: value for field, value in _limits(**limits).items() if value is not None}
    if password_file is None and _exists(ask, name):
        raise ApiError(f"there is a user {name} already: `vpnexit users change {name} --password` gives it another one")
    user = ask.api.post("/api/users", body | {"password": read_secret("password", password_file)})
    ask.answer(user, f"{user['name']} may use the proxy")


@command(app, "change", "vpnexit users change bob --monthly none --rate 5MB", more=_LIMITS)
def change_user(
    ask: Ask,
    name: UserName,
    password: Annotated[bool, typer.Option("--password", metavar="", help="Ask for a new password.")] = False,
    password_file: PasswordFile = None,
    **limits: str,
) -> None:
    """Change a proxy user; what is not named stays as it is."""
    path = f"/api/users/{segment(name)}"
    body = _limits(**limits)
    if password or password_file:
        body["password"] = read_secret("password", password_file)
    if not body:
        raise typer.BadParameter("nothing to change: name at least one of the options")
    user = ask.api.patch(path, body)
    ask.answer(user, f"{user['name']} is changed")


@command(app, "remove", "vpnexit users remove bob")
def remove_user(ask: Ask, name: UserName) -> None:
    """Remove a proxy user."""
    answer = ask.api.delete(f"/api/users/{segment(name)}")
    ask.answer(answer, f"{name} is removed")


def _exists(ask: Ask, name: str) -> bool:
    """Whether there is such a user: to be known before somebody thinks up a password twice."""
    try:
        ask.api.get(f"/api/users/{segment(name)}")
    except ApiError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return False
    return True


def _limits(countries: str, default_country: str, connections: str, rate: str, monthly: str) -> dict[str, Any]:
    """The fields that were named; None is `none`."""
    found: dict[str, Any] = {}
    if countries:
        found["allowed_countries"] = words(countries)
    if default_country:
        found["default_country"] = None if default_country == "none" else word(default_country)
    if connections:
        found["max_connections"] = number(connections)
    if rate:
        found["bytes_per_second"] = amount(rate)
    if monthly:
        found["monthly_bytes"] = amount(monthly)
    return found


def _row(user: Mapping[str, Any]) -> list[str]:
    return [
        user["name"],
        ", ".join(user["allowed_countries"]) or "all",
        user["default_country"] or "",
        str(user["max_connections"] or ""),
        _size(user["bytes_per_second"], "/s"),
        _size(user["month_bytes"]),
        _size(user["monthly_bytes"]),
    ]


def _size(size: int | None, per: str = "") -> str:
    return "" if size is None else shown_size(size) + per
