"""What a fuzzer feeds: one byte string that says where to cut and what to parse, for any of the parsers.

The rules are those of `tests/gateway/wire/parsers.py` (only WireError escapes, nothing asks for more than its limit, no
cut changes the outcome) and of `tests/fuzz/texts.py`.
"""

from tests.fuzz.texts import TEXTS
from tests.gateway.wire import parsers

PARSERS = parsers.PARSERS | TEXTS

WHOLE = b"\x00"  # before data that is not cut


def check(name: str, given: bytes) -> None:
    """Raises whatever the parser `name` lets escape, and AssertionError where a rule is broken.

    The first byte of `given` says how many of the next ones (0 to 7) are places to cut at; the rest is the data.
    """
    if not given:
        return
    count = given[0] % 8
    cuts, data = given[1 : 1 + count], given[1 + count :]
    run = PARSERS[name].run
    whole = run(data, ())
    assert run(data, [cut * (1 + len(data) // 256) for cut in cuts]) == whole, "cuts change the outcome"
    if len(data) <= 256:
        assert run(data, range(len(data))) == whole, "single bytes change the outcome"
