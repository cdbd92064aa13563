"""/proxy.pac: one proxy and nothing else, whatever the Host field says."""

from typing import Any

import pytest

from control.api.errors import ApiError
from control.api.pac import proxy_host, script
from tests.control.api.conftest import NewApi


@pytest.mark.parametrize(
    ("field", "host"),
    [
        ("proxy.example:8080", "proxy.example"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:db8::1]:8080", "[2001:db8::1]"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
    ],
)
def test_the_proxy_is_the_host_it_was_fetched_from(field: str, host: str) -> None:
    assert proxy_host(field) == host


@pytest.mark.parametrize(
    "field", ["", 'a";alert(1);//', "a b", "[::1", "[x]", "a\\", "-a", "a_b", "a" * 64, "a." * 200]
)
def test_a_host_that_is_none_is_refused(field: str) -> None:
    with pytest.raises(ApiError):
        proxy_host(field)


async def test_it_is_open_and_never_goes_direct(fleet: Any, new_api: NewApi) -> None:
    api = await new_api(fleet, {})
    answer = await api.get("/proxy.pac?country=jp", headers={"Host": "proxy.example:8080"})
    assert answer.content_type == "application/x-ns-proxy-autoconfig"
    assert await answer.text() == script("proxy.example", 10392)
    assert '"PROXY 127.0.0.1:3128"' in await (await api.get("/proxy.pac")).text()
    assert '"PROXY 127.0.0.1:10826"' in await (await api.get("/proxy.pac?country=uk")).text()
    assert "DIRECT" not in script("proxy.example", 10392)
    assert (await api.get("/proxy.pac?country=xx")).status == 400
    assert (await api.get("/proxy.pac", headers={"Host": 'x";alert(1)//'})).status == 400
