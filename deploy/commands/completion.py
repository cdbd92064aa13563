"""What the shell offers for a word: node ids, countries and users, asked of the API. Silent where there is none.

A shell waits for this on every press of Tab: one question, a short time-out, and never an error.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from typer import _completion_shared

from deploy.api_client import ApiError
from deploy.config import ConfigError
from health import countries as iso

TIMEOUT_S = 2.0
MOST = 500


_ZSH_FIRST_TAB = '\n[[ $funcstack[1] = _%(prog_name)s ]] && %(complete_func)s "$@"\n'


def mend_zsh() -> None:
    """Let what `--install-completion` writes for zsh complete at the first Tab, too.

    Typer's file only defines a function. zsh loads a completion at its first use, by running its file as that function
    (zshmisc(1), AUTOLOADING FUNCTIONS), so that the first Tab of every session offers nothing.
    """
    scripts = _completion_shared._completion_scripts
    if not scripts["zsh"].endswith(_ZSH_FIRST_TAB):
        scripts["zsh"] += _ZSH_FIRST_TAB


def nodes(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Node ids, with country, status and address."""
    return _offered(ctx, "/api/nodes", incomplete, _node)


def countries(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Countries that a node can be started in, with their names."""
    return _offered(ctx, "/api/countries", incomplete, _country)


def users(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Proxy users."""
    return _offered(ctx, "/api/users", incomplete, lambda user: (str(user["name"]), "proxy user"))


def tokens(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """API tokens."""
    return _offered(
        ctx, "/api/tokens", incomplete, lambda token: (str(token["id"]), f"{token['name']}, {token['scope']}")
    )


def _offered(
    ctx: typer.Context, path: str, incomplete: str, one: Callable[[Any], tuple[str, str]]
) -> list[tuple[str, str]]:
    from deploy.commands.ask import Ask  # completion is named by the words that commands take

    given = ctx.params
    try:
        files = (_path(given, "token_file"), _path(given, "state_dir"))
        ask = Ask(_path(given, "config"), given.get("api"), *files, timeout=TIMEOUT_S)
        found = ask.api.get(path)
        return list(_begin(map(one, found), incomplete))[:MOST]
    except (ApiError, ConfigError, typer.BadParameter, TypeError, KeyError, ValueError):
        return []


def _path(given: dict[str, Any], name: str) -> Path | None:
    return Path(given[name]) if given.get(name) else None


def _begin(offered: Iterator[tuple[str, str]], incomplete: str) -> Iterator[tuple[str, str]]:
    return (pair for pair in offered if pair[0].startswith(incomplete.lower()))


def _node(node: Any) -> tuple[str, str]:
    return str(node["id"]), " ".join(str(word) for word in (node["status"], node.get("exit_ip") or "") if word)


def _country(country: Any) -> tuple[str, str]:
    code = country if isinstance(country, str) else str(country["code"])
    return code, iso.name(code)
