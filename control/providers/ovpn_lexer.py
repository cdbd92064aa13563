"""Splits OpenVPN's configuration files into directives and inline files, as options_util.c and openvpn(8) say. Pure.

What cannot be split safely (a backslash, a quote in the middle of a word) is an error: nothing is guessed.
"""

import re
from collections.abc import Iterator

from control.providers import ProviderError

MAX_LINE = 4096
_TOKEN = re.compile(r"""\s*(?:"([^"\\]*)"|'([^'\\]*)'|([^\s"'\\]+))""")
_BLOCK = re.compile(r"<([a-z0-9-]+)>")


def directives(name: str, text: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Line number, words, and the content of an inline file (None for a plain directive)."""
    opened: tuple[int, str] | None = None
    content: list[str] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.rstrip("\r")
        if len(line) > MAX_LINE:
            raise ProviderError(f"{name} line {number} is longer than {MAX_LINE} characters")
        if opened is not None:
            if line.lstrip().startswith(f"</{opened[1]}>"):
                yield opened[0], [opened[1]], "\n".join(content)
                opened, content = None, []
            else:
                content.append(line)
            continue
        block = _BLOCK.fullmatch(line.strip())
        if block is not None:
            opened = (number, block[1])
            continue
        words = _words(line)
        if words is None:
            raise ProviderError(f"{name} line {number} is not understood")
        if words:
            yield number, words, None
    if opened is not None:
        raise ProviderError(f"{name} line {opened[0]}: <{opened[1][:32]}> has no end")


def _words(line: str) -> list[str] | None:
    """The words of a line, quotes taken off; None for one that cannot be split safely."""
    found: list[str] = []
    at, text = 0, line.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or (found and token.group()[0] not in " \t"):
            return None
        plain = token[3]
        if plain is not None and plain[0] in "#;":
            break
        found.append(next(group for group in token.groups() if group is not None))
        at = token.end()
    if not found:
        return found
    # "setenv opt X" is X (openvpn(8)); leading dashes are allowed.
    if found[:2] == ["setenv", "opt"] and len(found) > 2:
        found = found[2:]
    found[0] = found[0].removeprefix("--")
    return found if re.fullmatch(r"[a-z0-9][a-z0-9-]*", found[0]) else None
