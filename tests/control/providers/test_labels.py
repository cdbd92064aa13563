"""Country and city by the name of a file alone."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers.labels import MAX_CITY, Label, label
from health import countries


@pytest.mark.parametrize(
    ("name", "folder", "country", "city"),
    [
        ("jp-tokyo-1.ovpn", "", "jp", "Tokyo"),
        ("JP_Tokyo.conf", "", "jp", "Tokyo"),
        ("us-new-york-3.conf", "", "us", "New York"),
        ("us new york.ovpn", "", "us", "New York"),
        ("jp.conf", "", "jp", ""),
        ("jp123.vpn.example.udp.ovpn", "", "jp", ""),
        ("uk2.conf", "", "gb", ""),
        ("gb-london-wg-001.conf", "", "gb", "London"),
        ("us-nyc.prod.vpn.example_udp.ovpn", "", "us", "Nyc"),
        ("de-frankfurt-tcp.ovpn", "", "de", "Frankfurt"),
        ("tokyo-1.ovpn", "jp", "jp", "Tokyo"),
        ("anything.conf", "UK", "gb", "Anything"),
        ("jp-osaka.conf", "jp", "jp", "Osaka"),
        ("1.conf", "jp", "jp", ""),
    ],
)
def test_labels(name: str, folder: str, country: str, city: str) -> None:
    assert label(name, folder) == Label(country, city)


@pytest.mark.parametrize(
    ("name", "folder", "why"),
    [
        ("tokyo.ovpn", "", "does not begin with a country"),
        ("zz.ovpn", "", "does not begin with a country"),
        ("qq-x.ovpn", "", "does not begin with a country"),
        (".ovpn", "", "does not begin with a country"),
        ("1.conf", "japan", "is not named like a country"),
        ("us-1.conf", "jp", "its name says us, its folder jp"),
    ],
)
def test_what_tells_no_country_is_refused(name: str, folder: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        label(name, folder)


def outcome(read: Callable[..., Any], *given: str) -> Any:
    try:
        return read(*given)
    except ValueError as error:
        return error


@given(st.text(max_size=80), st.text(max_size=8))
def test_any_name_is_a_label_or_refused(name: str, folder: str) -> None:
    found = outcome(label, name, folder)
    if isinstance(found, ValueError):
        assert len(str(found)) < 200
    else:
        assert countries.normalise(found.country) == found.country
        assert len(found.city) <= MAX_CITY
