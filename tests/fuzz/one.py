"""One parser under atheris (libFuzzer), which never returns: argv is its name, then libFuzzer's own options."""

import sys

import atheris

with atheris.instrument_imports(include=["gateway", "control.providers", "control.api", "health", "h11"]):
    from tests.fuzz.targets import check

NAME = sys.argv.pop(1)


def feed(data: bytes) -> None:
    check(NAME, data)


atheris.Setup(sys.argv, feed)
atheris.Fuzz()
