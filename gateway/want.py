"""What one client connection asks for, and how a proxy user name says it: `alice-country-jp-session-a1b2-ttl-30m`.

User names have no dash, so the first dash begins the want. Nothing is guessed and nothing ignored: a key that is
unknown or there twice, and sources that disagree, are errors.
"""

import re
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from gateway.wire.base import WireError, shown
from health import countries
from health.model import NODE_ID
from health.reasons import Reason

MAX_TEXT = 512
MAX_VALUE = 64
MIN_TTL, MAX_TTL = 1.0, 7 * 86400.0  # seconds

_USER = re.compile(r"[A-Za-z0-9_.]{1,64}")
_VALUE = re.compile(rf"[A-Za-z0-9_.]{{1,{MAX_VALUE}}}")
_TTL = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEYS = ("country", "city", "node", "session", "ttl")
_FLAG = "strict"
_PROXY_LABEL = "proxy-"


@dataclass(frozen=True, slots=True)
class Want:
    """What a client asks for; None where it does not say. `country` is alpha-2, `city` lower case, `ttl` in seconds."""

    country: str | None = None
    city: str | None = None
    node: str | None = None
    session: str | None = None
    ttl: float | None = None
    strict: bool = False


_NOTHING = Want()
_FIELDS = tuple(field.name for field in fields(Want))


def parse_username(text: str) -> tuple[str, Want]:
    """The user's name and what the rest of a proxy user name wants. An empty text is nobody, who wants nothing.

    Raises:
        WireError: AUTH_FAILED when the name itself is malformed, BAD_WANT when the want is.
    """
    user, want_text = split_username(text)
    if text and not _USER.fullmatch(user):
        raise WireError(Reason.AUTH_FAILED, "a user name is 1 to 64 letters, digits, dots or underscores")
    return user, parse_want(want_text)


def split_username(text: str) -> tuple[str, str | None]:
    """The user's name, unchecked, and the text of the want (None without a dash)."""
    user, dash, want_text = text.partition("-")
    return user, want_text if dash else None


@lru_cache(maxsize=4096)
def parse_want(text: str | None) -> Want:
    """Read what follows the first dash of a proxy user name: `country-jp-city-tokyo-strict`.

    Raises:
        WireError: BAD_WANT, saying what is wrong.
    """
    if text is None:
        return _NOTHING
    if len(text) > MAX_TEXT:
        raise _refuse(f"the user name is longer than {MAX_TEXT} characters")
    given = _pairs(text.split("-"))
    want = Want(
        country=_country(given["country"]) if "country" in given else None,
        city=given["city"].lower() if "city" in given else None,
        node=_node(given["node"]) if "node" in given else None,
        session=given.get("session"),
        ttl=_ttl(given["ttl"]) if "ttl" in given else None,
        strict=_FLAG in given,
    )
    if want.ttl is not None and want.session is None:
        raise _refuse("ttl says how long a session lasts: give session, too")
    if want.strict and want.session is None and want.node is None:
        raise _refuse("strict keeps a session where it is: give session, too")
    return _consistent(want)


def merge(*wants: Want) -> Want:
    """One want out of several sources (user name, port, server name), which must agree where more than one speaks.

    Raises:
        WireError: BAD_WANT, naming both values.
    """
    speaking = [want for want in wants if want != _NOTHING]
    if len(speaking) < 2:
        return speaking[0] if speaking else _NOTHING
    merged = speaking[0]
    for want in speaking[1:]:
        for name in _FIELDS:
            merged = _merge_field(merged, want, name)
    return _consistent(merged)


def from_authority(authority: str | None, domain: str | None) -> Want:
    """What the TLS server name `proxy-jp.<domain>` wants; any other name, or no domain, says nothing.

    Both in lower case. Raises WireError(BAD_WANT) where a single label after `proxy-` is no country.
    """
    if authority is None or domain is None:
        return _NOTHING
    label = authority.removesuffix("." + domain)
    if label == authority or "." in label or not label.startswith(_PROXY_LABEL):
        return _NOTHING
    return Want(country=_country(label.removeprefix(_PROXY_LABEL)))


def _refuse(detail: str) -> WireError:
    return WireError(Reason.BAD_WANT, detail)


def _pairs(words: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    rest = iter(words)
    for key in rest:
        if key not in (*_KEYS, _FLAG):
            raise _refuse(f"unknown key {shown(key)} in the user name: use {', '.join(_KEYS)} or {_FLAG}")
        if key in given:
            raise _refuse(f"{key} is there twice in the user name")
        given[key] = "" if key == _FLAG else _value(key, next(rest, None))
    return given


def _value(key: str, value: str | None) -> str:
    if not value:
        raise _refuse(f"{key} has no value in the user name: write {key}-VALUE")
    if not _VALUE.fullmatch(value):
        raise _refuse(f"the value of {key} is not 1 to {MAX_VALUE} letters, digits, dots or underscores")
    return value


def _country(value: str) -> str:
    try:
        return countries.normalise(value)
    except ValueError as error:
        raise _refuse(str(error)) from None


def _node(value: str) -> str:
    if not NODE_ID.fullmatch(value):
        raise _refuse(f"{shown(value)} is no node id: two letters and six hex digits, such as jp3f9a1c")
    return value


def _ttl(value: str) -> float:
    match = _TTL.fullmatch(value)
    seconds = int(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not MIN_TTL <= seconds <= MAX_TTL:
        raise _refuse(f"ttl {shown(value)} is no time from 1s to 7d: write 30s, 30m, 2h or 1d")
    return float(seconds)


def _consistent(want: Want) -> Want:
    if want.node is not None and want.country is not None and want.node[:2] != want.country:
        raise _refuse(f"node {want.node} is not in country {want.country}")
    return want


def _merge_field(merged: Want, want: Want, name: str) -> Want:
    before, now = getattr(merged, name), getattr(want, name)
    if now is None or now == before or now is False:
        return merged
    if before is not None and before is not False:
        raise _refuse(f"the connection asks for {name} {before} and for {name} {now}: they must agree")
    return replace(merged, **{name: now})
