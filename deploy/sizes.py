"""Amounts of bytes as people write them: 10MB, 50 GB, 1GiB. Pure."""

import re

_UNITS = ("", "K", "M", "G", "T")
_FACTORS: dict[str, int] = {unit: 1000**i for i, unit in enumerate(_UNITS)} | {
    f"{u}I": 1024**i for i, u in enumerate(_UNITS) if u
}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]?I?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes: a number and a unit, decimal (MB is a million) or binary (MiB); without a unit, bytes.

    Raises ValueError, saying how to write it.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no amount of bytes: write 500kB, 10MB or 50GB (or KiB, MiB, GiB)")
    whole, _, part = match[1].partition(".")
    scale = int("1" + "0" * len(part))
    return int(whole) * factor + int(part or "0") * factor // scale


def shown_size(amount: int) -> str:
    """The same for people, decimal, three digits: 49.9 GB."""
    power = 0
    while power < len(_UNITS) - 1 and amount >= 999.5 * 1000**power:
        power += 1
    value = amount / 1000**power
    digits = 0 if power == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {_UNITS[power].replace('K', 'k')}B"
