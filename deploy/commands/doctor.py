"""`vpnexit doctor`: what is wrong with this machine, and how to mend it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.commands import output
from deploy.commands.ask import AsJson, Config, StateDir
from deploy.config import load
from deploy.doctor.model import Finding, Result

_SIGNS = {
    Result.OK: ("✓", "green"),
    Result.SKIPPED: ("-", "dim"),
    Result.WARNING: ("!", "yellow"),
    Result.FAILED: ("✗", "red"),
}


def add_to(app: typer.Typer) -> None:
    """Make it a command of `app`."""
    app.command(
        "doctor",
        epilog="Example: vpnexit doctor --config /etc/vpnexit.toml --online",
        rich_help_panel="On one machine",
    )(doctor)


def doctor(
    online: Annotated[
        bool,
        typer.Option(
            "--online", metavar="", help="Also ask the VPN provider: does it take the tokens, what time is it."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", metavar="", help="Show only what is wrong.")] = False,
    as_json: AsJson = False,
    state_dir: StateDir = None,
    config: Config = None,
) -> None:
    """Is this machine fit to run it? Says for everything that is not how to mend it. Exit code 1 if anything failed."""
    from deploy.doctor.examine import Subject, examine, runs_embedded  # Docker's SDK takes its time

    settings = load(config, state_dir)
    findings = examine(Subject(settings, online, runs_embedded(settings.state_dir)))
    if as_json:
        output.as_json({"result": worst(findings).value, "checks": [asdict(finding) for finding in findings]})
    else:
        show(findings, quiet)
    if worst(findings) is Result.FAILED:
        raise typer.Exit(1)


def worst(findings: Sequence[Finding]) -> Result:
    """The result of all together; `skipped` counts as `ok`."""
    results = {finding.result for finding in findings}
    return next((result for result in (Result.FAILED, Result.WARNING) if result in results), Result.OK)


def show(findings: Sequence[Finding], quiet: bool) -> None:
    console = Console(highlight=False)
    for finding in findings:
        if not quiet or finding.result in (Result.WARNING, Result.FAILED):
            _show(console, finding)
    counts = Counter(finding.result for finding in findings)
    parts = [f"{counts[result]} {result}" for result in reversed(Result) if counts[result]]
    console.print(Text(", ".join(parts), style=_SIGNS[worst(findings)][1] + " bold"))


def _show(console: Console, finding: Finding) -> None:
    sign, style = _SIGNS[finding.result]
    line = Text.assemble((finding.check, "bold"), ": ", output.harmless(finding.reason))
    _hang(console, [Text(sign, f"{style} bold"), line])
    for title, text in (("means", finding.meaning), ("mend", finding.mend)):
        if text:
            _hang(console, [Text("   "), Text(title.ljust(6), style), Text(output.harmless(text))])


def _hang(console: Console, cells: Sequence[Text]) -> None:
    """One line; on a terminal what does not fit goes on below its own beginning. A pipe gets it whole."""
    if not console.is_terminal:
        return console.print(Text(" ").join(cells), soft_wrap=True)
    grid = Table.grid(padding=(0, 1, 0, 0))
    for _ in cells[:-1]:
        grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(*cells)
    return console.print(grid)
