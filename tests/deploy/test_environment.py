"""Environment variables to nested values, for any models."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from deploy.environment import ConfigError, read_environment


class Item(BaseModel):
    name: str


class Section(BaseModel):
    number: int = 0
    words: tuple[str, ...] = ()
    maybe: list[int] | None = None
    table: dict[str, str] = {}
    items: tuple[Item, ...] = ()
    key: str = ""
    ca_file: Path | None = None


class Root(BaseModel):
    section: Section = Section()
    state_dir: Path = Path()


def read(**environ: str) -> dict[str, object]:
    return read_environment(environ, Root)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("NUMBER", "7", {"number": "7"}),
        ("NUMBER", "", {}),
        ("WORDS", "a, b,,c ", {"words": ["a", "b", "c"]}),
        ("WORDS", '["a,b"]', {"words": ["a,b"]}),
        ("WORDS", "", {"words": []}),
        ("MAYBE", "1,2", {"maybe": ["1", "2"]}),
        ("TABLE", '{"a": "b"}', {"table": {"a": "b"}}),
        ("ITEMS", '[{"name": "x"}]', {"items": [{"name": "x"}]}),
        ("CA_FILE", "/etc/ca.pem", {"ca_file": "/etc/ca.pem"}),
    ],
)
def test_values(name: str, text: str, expected: dict[str, object]) -> None:
    assert read(**{f"VPNEXIT_SECTION__{name}": text}) == ({"section": expected} if expected else {})


def test_top_level_and_what_is_not_ours() -> None:
    environ = {"VPNEXIT_STATE_DIR": "/x", "VPNEXIT_HAPROXY_ADDRESS": "::1", "VPNEXIT_API": "y", "PATH": "/bin"}
    assert read(**environ) == {"state_dir": "/x"}


def test_a_value_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" secret \n")
    assert read(VPNEXIT_SECTION__KEY_FILE=str(tmp_path / "key")) == {"section": {"key": "secret"}}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"VPNEXIT_SECTION__NUMBR": "1"},
            "VPNEXIT_SECTION__NUMBR: there is no such key; did you mean VPNEXIT_SECTION__NUMBER?",
        ),
        ({"VPNEXIT_SECTION__OTHER": "1"}, "VPNEXIT_SECTION__OTHER: there is no such key; there are number, words, "),
        ({"VPNEXIT_SECTION__NUMBER__X": "1"}, "VPNEXIT_SECTION__NUMBER__X: there is no such key; "),
        ({"VPNEXIT_NOWHERE__X": "1"}, "VPNEXIT_NOWHERE__X: there is no such key; the sections are section"),
        (
            {"VPNEXIT_SECTION": "1"},
            "VPNEXIT_SECTION: there is no such key; there are state_dir and the sections section",
        ),
        ({"VPNEXIT_SECTION__WORDS": '["a'}, "VPNEXIT_SECTION__WORDS: this is not JSON ("),
        (
            {"VPNEXIT_SECTION__KEY_FILE": "/nonexistent"},
            "VPNEXIT_SECTION__KEY_FILE: cannot read /nonexistent: No such file",
        ),
        (
            {"VPNEXIT_SECTION__KEY": "a", "VPNEXIT_SECTION__KEY_FILE": "/etc/hostname"},
            "VPNEXIT_SECTION__KEY and VPNEXIT_SECTION__KEY_FILE are both set: remove one of them",
        ),
    ],
)
def test_mistakes(environ: dict[str, str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    assert str(caught.value).startswith(expected)
