"""ISO 3166-1 countries: the codes, names and numbers that clients and operators use.

Codes are alpha-2, lower case; `uk` is accepted everywhere and shown as `gb`. `zz` (user-assigned in ISO 3166-1)
stands for "this machine" in the embedded default.
"""

from functools import cache

import pycountry

THIS_MACHINE = "zz"
PORT_BASE = 10000


def normalise(text: str) -> str:
    """Return the lower-case alpha-2 code for `text`.

    Raises:
        ValueError: `text` is no ISO 3166-1 alpha-2 code.
    """
    code = text.strip().lower()
    if code == "uk":
        return "gb"
    if len(code) == 2 and (code == THIS_MACHINE or code in _by_code()):
        return code
    shown = text if len(text) <= 16 else text[:16] + "…"
    raise ValueError(f"unknown country {shown!r}: use an ISO 3166-1 alpha-2 code such as jp, us or gb")


def name(code: str) -> str:
    """The English short name of `code`."""
    return "this machine" if code == THIS_MACHINE else _by_code()[code][0]


def port(code: str) -> int:
    """The proxy port of a country: 10000 + its ISO 3166-1 numeric code (jp 10392)."""
    return PORT_BASE + (999 if code == THIS_MACHINE else _by_code()[code][1])


def from_port(number: int) -> str | None:
    """The country whose proxy port is `number`, or None."""
    return _by_port().get(number)


def codes() -> tuple[str, ...]:
    """Every code there is, sorted, `zz` too."""
    return tuple(sorted([*_by_code(), THIS_MACHINE]))


@cache
def _by_code() -> dict[str, tuple[str, int]]:
    found = {}
    for country in pycountry.countries:
        found[country.alpha_2.lower()] = (getattr(country, "common_name", country.name), int(country.numeric))
    return found


@cache
def _by_port() -> dict[int, str]:
    return {PORT_BASE + number: code for code, (_, number) in _by_code().items()}
