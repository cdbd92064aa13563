"""What is shown: never markup, never a terminal's commands."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.commands import output
from deploy.commands.output import Column


@given(st.text())
def test_harmless_text_is_printable_and_keeps_what_was(text: str) -> None:
    shown = output.harmless(text)
    assert shown.isprintable()
    shown.encode()  # no half surrogates either
    if text.isprintable():
        assert shown == text


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert output.harmless("a\x1b[2J\tb\r\n\udcff\x9b") == "a\\x1b[2J\\tb\\r\\n\\udcff\\x9b"
    assert output.harmless("a\tb\n", keep="\t") == "a\tb\\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (12, "12"),
        (0.5, "0.5"),
        (12.3456, "12.346"),
        (3.0, "3"),
        (["a", 1], "a, 1"),
        ({"a": 1, "b": ""}, "a 1"),
    ],
)
def test_values_in_words(value: Any, text: str) -> None:
    assert output.shown(value) == text


def test_a_table_takes_markup_as_text_and_a_pipe_gets_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(
        [Column("id"), Column("server", wide=True), Column("why", folds=True)], [["a", "s", "[red]x[/] " * 40]]
    )
    header, row = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "server", "why"]
    assert row.endswith("[red]x[/] [red]x[/]")


def test_an_empty_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.table([Column("id")], [])
    assert capsys.readouterr().out == "none\n"


def test_a_record_goes_into_depth_and_leaves_out_what_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    output.record({"id": "x", "exit_ip": None, "metrics": {"probe_ms": 1.5, "loss": 0.0}, "nodes": []})
    assert capsys.readouterr().out.splitlines() == [
        "id                 x",
        "metrics: probe ms  1.5",
        "metrics: loss      0",
    ]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    output.as_json({"city": "Zürich"})
    output.json_line({"city": "Zürich", "n": [1, 2]})
    document, _, line = capsys.readouterr().out.rpartition("}\n{")
    assert json.loads(document + "}") == {"city": "Zürich"}
    assert "{" + line == '{"city":"Zürich","n":[1,2]}\n'
