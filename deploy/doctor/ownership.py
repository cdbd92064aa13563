"""Whose a program is that listens where ours would: another vpnexit on the machine is not ours."""

import tomllib
from itertools import pairwise
from pathlib import Path, PurePath

from deploy.environment import variable
from deploy.ports import Holder

_PROGRAMS = ("vpnexit", "deploy.cli", "gateway", "gateway.supervisor")
_WORDS = 4  # of a command line, within which a program is named


def state_dir_of(holder: Holder) -> Path | None:
    """The state directory of a process of vpnexit; None where it is another program's, or cannot be told."""
    if not any(PurePath(word).name in _PROGRAMS for word in holder.command[:_WORDS]):
        return None
    given = _option(holder, "--state-dir") or holder.environ.get(variable("state_dir")) or _configured(holder)
    home = holder.environ.get("HOME", "/")
    text = given or str(Path(home, ".local", "state", "vpnexit"))
    return Path(holder.directory, text.replace("~", home, 1) if text.startswith("~/") else text).resolve()


def _configured(holder: Holder) -> str:
    file = _option(holder, "--config")
    try:
        return str(tomllib.loads(Path(holder.directory, file).read_text()).get("state_dir", "")) if file else ""
    except (OSError, ValueError):
        return ""


def _option(holder: Holder, name: str) -> str:
    return next((after for word, after in pairwise(holder.command) if word == name), "")
