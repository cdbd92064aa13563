"""`vpnexit tokens`: who else may ask the API, and for what."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.api_client import ApiError
from deploy.commands import completion, output
from deploy.commands.ask import Ask, command
from deploy.commands.output import Column
from deploy.commands.words import NONE, duration, segment, word

app = typer.Typer(no_args_is_help=True, help="Tokens for programs that ask the API.")

_COLUMNS = (Column("id"), Column("name", folds=True), Column("scope"), Column("made (UTC)"), Column("expires (UTC)"))


class Scope(StrEnum):
    """What a token may do."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"


@command(app, "list", "vpnexit tokens list")
def list_tokens(ask: Ask) -> None:
    """All tokens; never their secrets."""
    found = ask.api.get("/api/tokens")
    if ask.as_json:
        return output.as_json(found)
    return output.table(_COLUMNS, [_row(token) for token in found])


@command(app, "add", "vpnexit tokens add prometheus --scope read --expires 90d --secret-file prometheus.token")
def add_token(
    ask: Ask,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    scope: Annotated[
        Scope, typer.Option(help="read: look; operate: also start, stop, scale; admin: also users and tokens.")
    ] = Scope.READ,
    secret_file: Annotated[
        Path | None,
        typer.Option("--secret-file", metavar="FILE", help="Write the secret here (mode 0600), and do not show it."),
    ] = None,
    expires: Annotated[
        str, typer.Option(metavar="TIME", help="Good for so long, as 12h or 90d; `none`: until it is removed.")
    ] = NONE,
) -> None:
    """Make a token. Its secret is shown now, and never again."""
    ttl = duration(expires)
    body = {"name": word(name), "scope": scope.value} | ({} if ttl is None else {"ttl": ttl})
    if secret_file is None:
        return _show(ask, ask.api.post("/api/tokens", body))
    descriptor = _create(secret_file)
    try:
        answer = ask.api.post("/api/tokens", body)
    except BaseException:
        os.close(descriptor)
        secret_file.unlink(missing_ok=True)
        raise
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{answer.pop('token')}\n")
    except OSError as error:
        raise ApiError(
            f"cannot write {secret_file}: {error.strerror}; its secret is lost: `vpnexit tokens remove {answer['id']}`"
        ) from None
    return ask.answer(answer, f"{answer['id']}: the secret of {answer['name']} is in {secret_file}")


@command(app, "remove", "vpnexit tokens remove 3f9a1c0b77de")
def remove_token(
    ask: Ask,
    token_id: Annotated[
        str, typer.Argument(metavar="ID", help="As `tokens list` shows it.", autocompletion=completion.tokens)
    ],
) -> None:
    """Remove a token: nobody gets in with it any more."""
    answer = ask.api.delete(f"/api/tokens/{segment(token_id)}")
    ask.answer(answer, f"{token_id} is removed")


def _show(ask: Ask, answer: Mapping[str, Any]) -> None:
    if ask.as_json:
        return output.as_json(answer)
    output.note(f"{answer['id']}: the secret of {answer['name']}, shown this once:")
    return output.say(answer["token"])


def _create(path: Path) -> int:
    """A new file of our own, before the token is made: afterwards its secret could not be had again."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ApiError(f"cannot write {path}: {error.strerror}") from None


def _row(token: Mapping[str, Any]) -> list[str]:
    ends = _time(token.get("expires_at")) or "never"
    return [
        token["id"],
        token["name"],
        token["scope"],
        _time(token.get("created_at")),
        f"expired {ends}" if token.get("expired") else ends,
    ]


def _time(text: str | None) -> str:
    return (text or "")[:16].replace("T", " ")
