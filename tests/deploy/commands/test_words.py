"""What may stand on the command line."""

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from deploy.commands import words


@given(st.text())
def test_segments_cannot_leave_their_place(text: str) -> None:
    try:
        found = words.segment(text)
    except typer.BadParameter as error:
        found, refusal = "", str(error)
    else:
        refusal = ""
    assert found in (text, "")
    assert not set(found) & set("/?#%\\ ")
    assert found not in (".", "..")
    assert len(refusal) < 600
    assert refusal.isprintable()


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a?b", "jp\n", "ü", "\udcff", "x" * 254, "a" * 1_000_000])
def test_not_segments(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="only"):
        words.segment(text)


def test_lists_numbers_amounts() -> None:
    assert words.words("jp, us,,") == ["jp", "us"]
    assert words.words("none") == []
    assert words.number("20") == 20
    assert words.number("none") is None
    assert words.decimal("0.5") == 0.5
    assert words.decimal("none") is None
    assert words.amount("10MB") == 10_000_000
    assert words.amount("none") is None


@pytest.mark.parametrize("text", ["-1", "1.5", "٣", "9" * 16, ""])
def test_not_numbers(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no number"):
        words.number(text)


@pytest.mark.parametrize("text", ["-1", "1e9", "nan", "inf", "٣", ".5", ""])
def test_not_decimals(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no number"):
        words.decimal(text)


def test_long_words_are_clipped_in_errors() -> None:
    with pytest.raises(typer.BadParameter, match="…'"):
        words.word("x" * 1_000_000)
