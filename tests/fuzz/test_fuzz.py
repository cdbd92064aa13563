"""The fuzz targets, without a fuzzer: crashes found before, and chance from a fixed seed. Keeps them from rotting."""

import random
from pathlib import Path

import pytest

from control.providers import ovpn
from gateway.wire.base import WireError
from tests.fuzz import run
from tests.fuzz.targets import PARSERS, WHOLE, check
from tests.gateway.wire.parsers import Parser

INPUTS = 2000
CRASHES = sorted(path for path in run.CRASHES.rglob("*") if path.is_file())
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\x00",
    b"\xff",
    b":",
    b"0",
    b"-",
    b".",
    b" ",
    b"[",
    b"\xff\xff",
    b"%00",
    b"Host: a\r\n",
)


def changed(rng: random.Random, seed: bytes) -> bytes:
    """`seed` after one to six small damages."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.choice((0, 0, 1, 1, 2, 8)))
        data[at:end] = rng.choice((b"", rng.randbytes(rng.randint(1, 4)), rng.choice(TOKENS), bytes(data[at:end]) * 2))
    return bytes(data)


@pytest.mark.parametrize("name", PARSERS)
def test_chance(name: str) -> None:
    rng = random.Random(name)
    for _ in range(INPUTS):
        cuts = rng.randbytes(rng.randrange(8))
        check(name, bytes((len(cuts),)) + cuts + changed(rng, rng.choice(PARSERS[name].seeds)))


def test_crashes_found_before() -> None:
    for path in CRASHES:
        check(path.parent.name, path.read_bytes())


@pytest.mark.parametrize(
    "broken",
    [
        lambda data, cuts: data[5],  # lets an IndexError out
        lambda data, cuts: len(cuts),  # depends on the cuts
    ],
)
def test_a_broken_parser_is_found(monkeypatch: pytest.MonkeyPatch, broken: object) -> None:
    monkeypatch.setitem(PARSERS, "broken", Parser(broken, (b"abc",)))  # type: ignore[arg-type]
    with pytest.raises((IndexError, AssertionError)):
        check("broken", WHOLE + b"abc")
    with pytest.raises((IndexError, AssertionError, WireError)):
        check("broken", b"\x01\x01abcdefgh"[:4])


def test_a_file_that_the_exit_would_not_take_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ovpn, "render", lambda *_, **__: b"up /bin/sh\n")
    with pytest.raises(AssertionError):
        check("openvpn_file", WHOLE + PARSERS["openvpn_file"].seeds[0])


def test_seeds_are_written_as_inputs(tmp_path: Path) -> None:
    run.write_seeds("socks4", tmp_path / "socks4")
    written = [path.read_bytes() for path in sorted((tmp_path / "socks4").iterdir())]
    assert written == [WHOLE + seed for seed in PARSERS["socks4"].seeds]
    for given in written:
        check("socks4", given)


def test_what_broke_is_kept(tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    (found / "crash-1").write_bytes(b"x")
    run.keep(found, tmp_path / "crashes" / "socks4")
    assert (tmp_path / "crashes" / "socks4" / "crash-1").read_bytes() == b"x"


def test_summary() -> None:
    said = "#9 DONE cov: 12 ft: 34 corp: 5/6b\nstat::number_of_executed_units: 9\n"
    assert " ".join(run.summary(said).split()) == "9 inputs, 12 edges, 34 features, 5 kept"
