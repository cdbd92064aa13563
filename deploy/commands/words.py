"""What may stand on the command line: names, countries, limits, secrets. Refuses in words; asks nobody."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from deploy.api_client import ApiError
from deploy.commands.completion import countries, nodes, users
from deploy.commands.output import harmless
from deploy.sizes import parse_size

LONGEST = 253  # a DNS name; nothing that the API takes as a word is longer
LONGEST_SECRET = 4096
NONE = "none"

Country = Annotated[str, typer.Argument(metavar="COUNTRY", help="Two letters, such as jp.", autocompletion=countries)]
NodeId = Annotated[str, typer.Argument(metavar="ID", help="As `nodes list` shows it.", autocompletion=nodes)]
UserName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Letters, digits, dots and underscores; no dash.", autocompletion=users),
]

_USER = re.compile(r"[A-Za-z0-9_.]{1,64}")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SEGMENT = re.compile(r"[A-Za-z0-9._-]{1,253}")


def segment(word: str) -> str:
    """`word` as one segment of a path. Raises BadParameter where it cannot be a name."""
    if not _SEGMENT.fullmatch(word) or word in (".", ".."):
        raise typer.BadParameter(f"{clipped(word)}: letters, digits, dots, dashes and underscores only")
    return word


def user_name(text: str) -> str:
    """The name of a proxy user. Raises BadParameter where it cannot be one."""
    if not _USER.fullmatch(text):
        raise typer.BadParameter(
            f"{clipped(text)}: 1 to 64 letters, digits, dots and underscores; after a dash clients say what they want"
        )
    return text


def word(text: str) -> str:
    """`text` for a field of a body. Raises BadParameter for what cannot be meant."""
    if len(text) > LONGEST or not text.isprintable():
        raise typer.BadParameter(f"{clipped(text)}: up to {LONGEST} printable characters")
    return text


def words(text: str) -> list[str]:
    """`jp,us` as a list; `none` as an empty one."""
    return [] if text == NONE else [word(part.strip()) for part in text.split(",") if part.strip()]


def number(text: str) -> int | None:
    """A whole number, or None for `none`."""
    if text == NONE:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise typer.BadParameter(f"{clipped(text)} is no number: write 20, or `none`")
    return int(text)


def decimal(text: str) -> float | None:
    """A number such as 6 or 0.5, or None for `none`."""
    if text == NONE:
        return None
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        raise typer.BadParameter(f"{clipped(text)} is no number: write 6 or 0.5, or `none`")
    return float(text)


def amount(text: str) -> int | None:
    """Bytes, as 10MB or 50GB, or None for `none`."""
    if text == NONE:
        return None
    try:
        return parse_size(text)
    except ValueError:
        raise typer.BadParameter(
            f"{clipped(text)} is no amount of bytes: write 500kB, 10MB or 50GB (or KiB, MiB, GiB), or `none`"
        ) from None


def duration(text: str) -> int | None:
    """Seconds, of 30m, 12h or 90d; None for `none`."""
    if text == NONE:
        return None
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text, re.ASCII)
    if found is None:
        raise typer.BadParameter(f"{clipped(text)} is no time: write 30m, 12h or 90d, or `none`")
    return int(found[1]) * _SECONDS[found[2]]


def clipped(text: str) -> str:
    """`text` for an error message: quoted, harmless, not long."""
    return f"'{harmless(text if len(text) <= 40 else text[:40] + '…')}'"


def read_secret(what: str, file: Path | None) -> str:
    """A secret from a file, `-` for standard input, else asked for. Raises ApiError."""
    if file is None:
        if not sys.stdin.isatty():
            raise ApiError(f"no terminal to ask for the {what}: use --{what}-file FILE, or - for standard input")
        return str(typer.prompt(what, hide_input=True, confirmation_prompt=True))
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(LONGEST_SECRET + 1)
        else:
            with file.open("rb") as opened:
                raw = opened.read(LONGEST_SECRET + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ApiError(f"cannot read {harmless(str(file))}: {why}") from None
    if len(raw) > LONGEST_SECRET:
        raise ApiError(f"the {what} is longer than {LONGEST_SECRET} bytes")
    return text.rstrip("\r\n")
