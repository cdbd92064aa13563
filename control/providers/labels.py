"""Which country and city a VPN file is for, by its name alone. Pure.

    jp-tokyo-1.ovpn   jp_tokyo.conf   us-new-york-3.conf   jp123.vpn.example.udp.ovpn   uk2.conf   jp/anything.conf

The name begins with the country's ISO 3166-1 code, or stands in a folder that is named like one. Words after it, up to
the first dot, are the city; numbers, and words that say what the file is for, are not.
"""

import re
from dataclasses import dataclass

from health import countries

_NOT_A_CITY = frozenset({"wg", "wireguard", "ovpn", "openvpn", "udp", "tcp", "vpn", "all", "prod", "server", "p2p"})
_FIRST = re.compile(r"([a-z]{2})[0-9]*", re.ASCII)
_SPLIT = re.compile(r"[-_ ]+")
MAX_CITY = 64


@dataclass(frozen=True, slots=True)
class Label:
    """`city` is empty where the name tells none."""

    country: str
    city: str = ""


def label(name: str, folder: str = "") -> Label:
    """What a file's name says, `folder` being the one it stands in (empty: the top one).

    Raises ValueError: no country, or two that differ.
    """
    words = _SPLIT.split(name.partition(".")[0].lower())
    outer, inner = _country(folder.lower()), _country(words[0])
    if folder and not outer:
        raise ValueError(f"the folder {folder[:32]!r} is not named like a country: use an ISO 3166-1 code such as jp")
    if outer and inner and outer != inner:
        raise ValueError(f"its name says {inner}, its folder {outer}")
    country = outer or inner
    if not country:
        raise ValueError("its name does not begin with a country, as in jp-tokyo-1: use an ISO 3166-1 code")
    rest = words[1:] if inner else words
    city = [word.capitalize() for word in rest if word.isalpha() and word not in _NOT_A_CITY]
    return Label(country, " ".join(city)[:MAX_CITY].strip())


def _country(word: str) -> str:
    found = _FIRST.fullmatch(word)
    if found is None:
        return ""
    try:
        code = countries.normalise(found[1])
    except ValueError:
        return ""
    return "" if code == countries.THIS_MACHINE else code
