"""What every command that asks the API has in common: how it is reached, who asks, and `--json`.

`@command(app, name, example=…)` adds these options to a function whose first parameter is the `Ask`.
"""

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from control.config import join_listen
from deploy.api_client import TIMEOUT_S, ApiClient, ApiError, base_url, password_file, read_password, read_token
from deploy.commands import output
from deploy.config import load
from deploy.ports import reachable

FLEET = "The fleet"
FLAG = ""  # as metavar: an option that is followed by nothing
_PANEL = "Connection"

Config = Annotated[
    Path | None, typer.Option("--config", help="Configuration file (TOML).", show_default=False, metavar="FILE")
]
ApiAddress = Annotated[
    str | None,
    typer.Option(
        "--api",
        envvar="VPNEXIT_API",
        metavar="ADDRESS",
        help="The API: host:port or URL. Without it, control.listen of the configuration.",
        rich_help_panel=_PANEL,
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="VPNEXIT_TOKEN_FILE",
        metavar="FILE",
        help="Ask with the API token in this file. Without it, as admin, with admin.password of the state directory.",
        rich_help_panel=_PANEL,
    ),
]
StateDir = Annotated[
    Path | None,
    typer.Option(
        "--state-dir",
        metavar="DIRECTORY",
        help="Where vpnexit keeps its state. Without it, state_dir of the configuration.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Configuration file (TOML).", show_default=False, metavar="FILE", rich_help_panel=_PANEL
    ),
]
AsJson = Annotated[bool, typer.Option("--json", metavar=FLAG, help="As JSON, for programs.")]


@dataclass(frozen=True)
class Ask:
    """One command's surroundings."""

    config: Path | None = None
    address: str | None = None
    token_file: Path | None = None
    state_dir: Path | None = None
    as_json: bool = False
    timeout: float = TIMEOUT_S

    @functools.cached_property
    def api(self) -> ApiClient:
        """The API to ask. Raises ConfigError, ApiError, or BadParameter for an address that is none."""
        token = read_token(self.token_file) if self.token_file else ""
        who = f"with the token in {self.token_file}"
        if token and self.address:
            return ApiClient(_checked(self.address), token=token, timeout=self.timeout, who=who)
        settings = load(self.config, self.state_dir)
        address, where = self.address, ""
        if address is None:
            address = join_listen(*reachable(settings.control.listen))
            where = "it is control.listen of the configuration; --api names another address"
        password = ""
        if not token:
            password = read_password(settings.state_dir)
            who = f"as admin with the password in {password_file(settings.state_dir)}"
        return ApiClient(_checked(address), password, token, self.timeout, who, where)

    def answer(self, value: Any, text: str) -> None:
        """The API's answer: as it is for programs, in a few words for people."""
        if self.as_json:
            output.as_json(value)
        else:
            output.say(text)

    def record(self, value: Any) -> None:
        """Everything about one thing."""
        if self.as_json:
            output.as_json(value)
        else:
            output.record(value)


def _checked(address: str) -> str:
    try:
        return base_url(address)
    except ValueError as error:
        raise typer.BadParameter(f"--api: {error}") from None


def option(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """An option that several commands take: for `more` of `command`."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


_JSON = option("as_json", AsJson, False)
_CONNECTION = (
    option("api", ApiAddress, None),
    option("token_file", TokenFile, None),
    option("state_dir", StateDir, None),
    option("config", ConfigFile, None),
)


def command(
    app: typer.Typer, name: str, example: str, *, panel: str | None = None, more: Iterable[inspect.Parameter] = ()
) -> Callable[[Callable[..., None]], Any]:
    """Make a function the command `name` of `app`. `example` is shown at the end of its help.

    `more` are options that the function takes as `**keywords`.
    """

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _, *given = inspect.signature(function, eval_str=True).parameters.values()
        own = [parameter for parameter in given if parameter.kind is not inspect.Parameter.VAR_KEYWORD]

        def run(
            *,
            api: str | None,
            token_file: Path | None,
            state_dir: Path | None,
            config: Path | None,
            as_json: bool,
            **words: Any,
        ) -> None:
            try:
                function(Ask(config, api, token_file, state_dir, as_json), **words)
            except (LookupError, TypeError, AttributeError) as error:
                what = f"{type(error).__name__}: {error}"
                raise ApiError(f"the API's answer is not understood ({what}): is it of another version?") from error

        parameters = [*own, *more, _JSON, *_CONNECTION]
        run.__doc__ = function.__doc__
        # Typer reads both.
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        app.command(name, epilog=f"Example: {example}", rich_help_panel=panel)(run)
        return function

    return add
