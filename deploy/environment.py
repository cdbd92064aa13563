"""Reads settings from environment variables, for any tree of pydantic models.

    VPNEXIT_<SECTION>__<FIELD>         the value; lists as JSON or separated by commas
    VPNEXIT_<SECTION>__<FIELD>_FILE    a file that holds the value, for secrets

A variable that names no field is an error, with the name that was probably meant: a misspelt setting must not be lost.
"""

import difflib
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

PREFIX = "VPNEXIT_"
_ALIKE = 0.75


class ConfigError(Exception):
    """A wrong configuration; the text is one line for the operator."""


def variable(*path: str | int) -> str:
    """The environment variable of a key: `variable("gateway", "listen")` is VPNEXIT_GATEWAY__LISTEN."""
    return PREFIX + "__".join(str(part) for part in path).upper()


def read_environment(environ: Mapping[str, str], root: type[BaseModel]) -> dict[str, Any]:
    """The values that `environ` holds for the fields of `root`, as nested dictionaries.

    Raises:
        ConfigError: a variable names no field, or its file cannot be read.
    """
    values: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    for name in sorted(environ):
        path = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if not name.startswith(PREFIX) or (len(path) == 1 and not _known(root, path[0])):
            continue  # VPNEXIT_HAPROXY_… and the like are other programs'
        text: str | None = environ[name]
        field = _find(root, path)
        if field is None and path[-1].endswith("_file"):
            path = (*path[:-1], path[-1].removesuffix("_file"))
            field = _find(root, path)
            text = _read_secret(name, environ[name]) if field is not None else None
        if field is None:
            raise ConfigError(f"{name}: there is no such key{suggest(root, path, variable)}")
        if path in origins:
            raise ConfigError(f"{origins[path]} and {name} are both set: remove one of them")
        origins[path] = name
        value = _convert(name, field, text or "")
        if value is not None:
            _put(values, path, value)
    return values


def _known(root: type[BaseModel], name: str) -> bool:
    return name in root.model_fields or name.removesuffix("_file") in root.model_fields


def _find(model: type[BaseModel], path: Sequence[str]) -> FieldInfo | None:
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field if field is None or not _is_section(field) else None
    return _find(field.annotation, path[1:]) if _is_section(field) else None  # type: ignore[arg-type]


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _convert(name: str, field: FieldInfo, text: str) -> Any:
    """What pydantic is given for `text`; None where an empty variable leaves the default."""
    kinds = set(_kinds(field.annotation))
    if not kinds & {tuple, list, set, frozenset, dict}:
        return text or None
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(f"{name}: this is not JSON ({error}): write JSON, or items separated by commas") from None
    return [item for item in (part.strip() for part in text.split(",")) if item]


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types an annotation allows: `tuple[int, ...] | None` gives tuple and NoneType."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _kinds(part)
    elif origin is Annotated:
        yield from _kinds(typing.get_args(annotation)[0])
    else:
        yield origin or annotation


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _read_secret(name: str, file: str) -> str:
    try:
        return Path(file).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot read {file}: {why_unreadable(error)}") from None


def suggest(root: type[BaseModel], path: Sequence[str], show: Callable[..., str]) -> str:
    """How an error goes on: the key that was probably meant (as `show` writes it), else all there are at that place."""
    every = list(_all_keys(root, ()))
    sections = [name for name, field in root.model_fields.items() if _is_section(field)]
    near = max((key for key in [*every, *((name,) for name in sections)]), key=lambda key: _alike(key, path))
    if _alike(near, path) >= _ALIKE:
        return f"; did you mean {show(*near)}?"
    siblings = [key[-1] for key in every if key[:-1] == tuple(path[:-1])]
    if siblings:
        return f"; there are {', '.join(siblings)}" + (
            f" and the sections {', '.join(sections)}" if len(path) == 1 else ""
        )
    return f"; the sections are {', '.join(sections)}"


def _alike(key: Sequence[str], path: Sequence[str]) -> float:
    """0 (not at all) to 1 (the same): how alike the least alike part is."""
    if len(key) != len(path) or key == path:
        return 0.0
    pairs = zip(key, path, strict=True)
    return min(difflib.SequenceMatcher(None, mine, theirs).ratio() for mine, theirs in pairs)


def _all_keys(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        if _is_section(field):
            yield from _all_keys(field.annotation, (*prefix, name))  # type: ignore[arg-type]
        else:
            yield (*prefix, name)


def why_unreadable(error: Exception) -> str:
    """What an OSError or UnicodeDecodeError means, in a few words."""
    return (error.strerror or str(error)) if isinstance(error, OSError) else "it is not UTF-8 text"
