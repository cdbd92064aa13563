"""Country codes, names and ports."""

import pytest

from health import countries


@pytest.mark.parametrize(
    ("text", "code"),
    [("jp", "jp"), ("JP", "jp"), (" us ", "us"), ("uk", "gb"), ("UK", "gb"), ("gb", "gb"), ("zz", "zz")],
)
def test_codes_are_normalised(text: str, code: str) -> None:
    assert countries.normalise(text) == code


@pytest.mark.parametrize("text", ["", "j", "jpn", "xx", "392", "\uff4a\uff50", "j\0", "İ", "japan", "e" * 10_000])
def test_other_texts_are_refused_briefly(text: str) -> None:
    with pytest.raises(ValueError, match="ISO 3166-1") as caught:
        countries.normalise(text)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize(
    ("code", "port", "name"),
    [("jp", 10392, "Japan"), ("us", 10840, "United States"), ("gb", 10826, "United Kingdom"), ("al", 10008, "Albania")],
)
def test_ports_and_names(code: str, port: int, name: str) -> None:
    assert countries.port(code) == port
    assert countries.from_port(port) == code
    assert countries.name(code) == name


def test_this_machine_has_a_name_and_a_port_nobody_else_has() -> None:
    assert countries.name("zz") == "this machine"
    assert countries.from_port(countries.port("zz")) is None


@pytest.mark.parametrize("port", [0, 9999, 10000, 10899, 10999, 65535])
def test_ports_of_no_country(port: int) -> None:
    assert countries.from_port(port) is None
