"""Tokens and credentials: judged before use, kept for bad days, never shown."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from control.config import NordVpnAccount
from control.providers import ProviderError
from control.providers.api import Api
from control.providers.logins import FRESH_S, REFUSED_S, Credentials, Logins, read_token

KEY = base64.b64encode(bytes(32)).decode()
GOOD = {"username": "svc", "password": "pass-word", "nordlynx_private_key": KEY}
SHOWN = ("secret-token", "svc", "pass-word", KEY)


class Service:
    """Gives credentials for one token; `status` other than 200 is what it answers instead."""

    def __init__(self) -> None:
        self.token = "secret-token"
        self.answer: Any = GOOD
        self.status = 200
        self.asked = 0
        self.now = 0.0

    async def credentials(self, request: web.Request) -> web.Response:
        self.asked += 1
        if self.status != 200:
            return web.Response(status=self.status)
        expected = "Basic " + base64.b64encode(f"token:{self.token}".encode()).decode()
        if request.headers.get("Authorization") != expected:
            return web.json_response({"errors": {"code": 101301, "message": "Unauthorized"}}, status=401)
        return web.json_response(self.answer)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def api(service: Service, aiohttp_server: Any) -> AsyncIterator[Api]:
    app = web.Application()
    app.router.add_get("/v1/users/services/credentials", service.credentials)
    found = Api(str((await aiohttp_server(app)).make_url("")).rstrip("/"), 2.0, service.clock)
    yield found
    await found.close()


@pytest.fixture
def account(tmp_path: Path) -> NordVpnAccount:
    write(tmp_path / "token", "secret-token\n")
    return NordVpnAccount(name="main", token_file=tmp_path / "token")


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


async def test_credentials_are_asked_once_while_they_are_fresh(
    api: Api, service: Service, account: NordVpnAccount
) -> None:
    logins = Logins(api, None, service.clock)
    found = await logins.credentials(account)
    assert found == Credentials("svc", "pass-word", KEY)
    assert not any(secret in repr(found) for secret in SHOWN)
    assert await logins.credentials(account) == found
    assert service.asked == 1
    service.now = FRESH_S
    await logins.credentials(account)
    assert service.asked == 2


@pytest.mark.parametrize("status", [500, 503, 302, 404])
async def test_they_are_kept_while_the_api_is_away_and_over_a_restart(
    api: Api, service: Service, account: NordVpnAccount, tmp_path: Path, status: int
) -> None:
    logins = Logins(api, tmp_path / "kept", service.clock)
    found = await logins.credentials(account)
    service.status, service.now = status, FRESH_S
    assert await logins.credentials(account) == found
    assert await Logins(api, tmp_path / "kept", service.clock).credentials(account) == found
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "secret-token" not in kept.read_text()
    write(account.token_file, "another-token-of-another-account")
    with pytest.raises(ProviderError, match=f"account main: .* answered {status}"):
        await Logins(api, tmp_path / "kept", service.clock).credentials(account)


async def test_credentials_that_a_server_refused_are_asked_for_anew_and_kept_where_nobody_answers(
    api: Api, service: Service, account: NordVpnAccount, tmp_path: Path
) -> None:
    logins = Logins(api, tmp_path / "kept", service.clock)
    logins.doubt(account.name)
    old = await logins.credentials(account)
    logins.doubt(account.name)
    service.status = 500
    assert await logins.credentials(account) == old
    service.status, service.answer = 200, {**GOOD, "password": "a-new-word"}
    assert (await logins.credentials(account)).password == "a-new-word"
    assert (await logins.credentials(account)).password == "a-new-word"
    assert service.asked == 3


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_token_is_not_tried_again_until_it_is_changed(
    api: Api, service: Service, account: NordVpnAccount, tmp_path: Path, status: int
) -> None:
    logins = Logins(api, tmp_path / "kept", service.clock)
    await logins.credentials(account)
    service.now, service.status = FRESH_S, status
    for _ in range(3):
        with pytest.raises(ProviderError, match="account main: the provider refuses its token: put a valid one") as no:
            await logins.credentials(account)
        assert not any(secret in str(no.value) for secret in SHOWN)
    assert service.asked == 2
    assert list((tmp_path / "kept").iterdir()) == []
    assert "refuses its token" in await logins.trouble(account)
    service.status, service.token = 200, "a-better-token"
    write(account.token_file, "a-better-token")
    assert await logins.trouble(account) == ""
    assert (await logins.credentials(account)).username == "svc"


async def test_a_refused_token_is_tried_again_after_a_while(
    api: Api, service: Service, account: NordVpnAccount
) -> None:
    logins = Logins(api, None, service.clock)
    service.status = 401
    with pytest.raises(ProviderError, match="refuses its token"):
        await logins.credentials(account)
    service.status, service.now = 200, REFUSED_S
    assert (await logins.credentials(account)).username == "svc"


@pytest.mark.parametrize("answer", [[], "x", None, 5])
async def test_an_answer_that_is_no_object_is_told(
    api: Api, service: Service, account: NordVpnAccount, answer: Any
) -> None:
    service.answer = answer
    with pytest.raises(ProviderError, match="account main: the provider's answer is not understood"):
        await Logins(api, None, service.clock).credentials(account)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"username": "a\nb"}, Credentials("", "pass-word", KEY)),
        ({"password": None}, Credentials("svc", "", KEY)),
        ({"nordlynx_private_key": "short"}, Credentials("svc", "pass-word", "")),
        ({"username": "x" * 256}, Credentials("", "pass-word", KEY)),
    ],
)
async def test_what_does_not_fit_into_a_file_is_left_out(
    api: Api, service: Service, account: NordVpnAccount, changes: dict[str, Any], expected: Credentials
) -> None:
    service.answer = GOOD | changes
    assert await Logins(api, None, service.clock).credentials(account) == expected


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"token": 5}', '{"username": "x"}'])
async def test_a_broken_copy_is_no_copy(
    api: Api, service: Service, account: NordVpnAccount, tmp_path: Path, kept: str
) -> None:
    service.status = 500
    write(tmp_path / "credentials-main.json", kept)
    with pytest.raises(ProviderError, match="answered 500"):
        await Logins(api, tmp_path, service.clock).credentials(account)


@pytest.mark.parametrize("text", ["", "  \n"])
async def test_an_empty_file_holds_no_token(account: NordVpnAccount, text: str) -> None:
    write(account.token_file, text)
    with pytest.raises(ProviderError, match="is empty: put the access token there"):
        await read_token(account)


@pytest.mark.parametrize(
    "text",
    ["changeme", "Your-Token", "two words", "<token>", "${TOKEN}", "xxxx", "insert token here", "todo", "tök", "a\0b"],
)
async def test_placeholders_are_no_tokens(account: NordVpnAccount, text: str) -> None:
    write(account.token_file, text)
    with pytest.raises(ProviderError, match="holds no access token"):
        await read_token(account)


async def test_a_token_file_must_be_there_and_private(account: NordVpnAccount, tmp_path: Path) -> None:
    assert await read_token(account) == "secret-token"
    account.token_file.chmod(0o644)
    with pytest.raises(ProviderError, match=r"account main: token file .*everybody may read or change it: chmod 600"):
        await read_token(account)
    with pytest.raises(ProviderError, match=r"account main: token file .*none: No such file"):
        await read_token(account.model_copy(update={"token_file": tmp_path / "none"}))
    write(account.token_file, "x" * 5000)
    with pytest.raises(ProviderError, match="longer than 4096 bytes"):
        await read_token(account)


async def test_many_that_start_at_once_ask_once(api: Api, service: Service, account: NordVpnAccount) -> None:
    logins = Logins(api, None, service.clock)
    found = await asyncio.gather(*(logins.credentials(account) for _ in range(10)))
    assert found == [Credentials("svc", "pass-word", KEY)] * 10
    assert service.asked == 1
