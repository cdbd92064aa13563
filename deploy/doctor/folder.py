"""The folder of VPN files (provider `custom`): can every file be used, and if not, why?"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from control.providers import ProviderError
from control.providers.folder import scan
from deploy.doctor.model import Finding, failed, ok, warning

NAME = "VPN files"
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """`refused` says file by file why it cannot be used; `fault` why the folder cannot be read."""

    directory: Path
    usable: int = 0
    countries: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    fault: str = ""


def look(directory: Path) -> Seen:
    try:
        found = scan(directory)
    except ProviderError as error:
        return Seen(directory, fault=str(error))
    countries = tuple(sorted({entry.label.country for entry in found.entries}))
    return Seen(directory, len(found.entries), countries, found.refused)


def judge(seen: Seen) -> Iterator[Finding]:
    meaning = "No exit of this provider can be started."
    if seen.fault:
        yield failed(NAME, seen.fault, meaning, f"chown it to the user that control runs as: {seen.directory}")
        return
    some = "; ".join(seen.refused[:SHOWN]) + ("; …" if len(seen.refused) > SHOWN else "")
    put = f"put .ovpn or .conf files into {seen.directory}, named as jp-tokyo-1.ovpn"
    if not seen.usable:
        what = f"none of {len(seen.refused)} can be used: {some}" if seen.refused else f"{seen.directory} has none"
        yield failed(NAME, what, meaning, "put that right, file by file" if seen.refused else put)
    elif seen.refused:
        there = f"{seen.usable} can be used, {len(seen.refused)} not: {some}"
        yield warning(NAME, there, "Those are left out; the others serve.", "put that right, file by file")
    else:
        yield ok(NAME, f"{seen.usable} for {', '.join(seen.countries)}")
