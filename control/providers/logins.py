"""An account's access token, and the service credentials that the provider gives for it.

The credentials are kept for ten minutes in memory, and on disk in case the API is away after a restart (mode 0600,
beside a digest of their token: another token has others). A token that was refused is not tried again for five minutes,
unless it was changed. Nothing here is ever logged.
"""

import asyncio
import hashlib
import hmac
import json
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from control.config import NordVpnAccount
from control.providers import ProviderError
from control.providers.api import Api, StatusError
from control.providers.files import read_private, write_private
from control.providers.servers import is_wireguard_key

log = structlog.get_logger()

FRESH_S = 600.0
REFUSED_S = 300.0
MAX_TOKEN = 4096
_PLACEHOLDER = re.compile(
    r"change[-_ ]?(me|it|this).*|(my|your|the|access|nordvpn)?[-_ ]?(access)?[-_ ]?(token|password|secret|key)[0-9]*|"
    r"insert.*|paste.*|placeholder|example|default|todo|none|null|x+|\*+|\.+|-+|0+|1234\d*|<.*>|\{.*\}|\$\{?\w+\}?",
    re.IGNORECASE,
)
_WORD = re.compile(r"[!-~]{1,255}")


@dataclass(frozen=True, slots=True)
class Credentials:
    """Empty where the provider gave none."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    wireguard_key: str = field(default="", repr=False)


class Logins:
    """`directory`: where credentials are kept, or None for nowhere. `clock` is monotonic."""

    def __init__(self, api: Api, directory: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._directory = directory
        self._clock = clock
        self._kept: dict[str, tuple[float, str, Credentials]] = {}
        self._refused: dict[str, tuple[float, str]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def trouble(self, account: NordVpnAccount) -> str:
        """Why this account cannot be used, as far as is known without asking; empty where nothing speaks against it."""
        try:
            self._check(account, _digest(await read_token(account)))
        except ProviderError as error:
            return str(error)
        return ""

    async def credentials(self, account: NordVpnAccount) -> Credentials:
        """The credentials of `account`. Raises ProviderError; its text holds neither token nor credentials.

        Nodes that start together ask the provider once.
        """
        async with self._locks[account.name]:
            return await self._credentials(account)

    def doubt(self, account: str) -> None:
        """A VPN server refused what is kept for `account`: to be asked for again, and used where nobody answers."""
        if account in self._kept:
            self._kept[account] = (float("-inf"), *self._kept[account][1:])

    async def _credentials(self, account: NordVpnAccount) -> Credentials:
        token = await read_token(account)
        digest = _digest(token)
        self._check(account, digest)
        at, known, kept = self._kept.get(account.name, (0.0, "", Credentials()))
        if known == digest and self._clock() - at < FRESH_S:
            return kept
        try:
            found = _parse(await self._api.get("/v1/users/services/credentials", login=("token", token)))
        except ProviderError as error:
            return await self._instead(account, digest, error)
        self._kept[account.name] = (self._clock(), digest, found)
        await asyncio.to_thread(self._save, account.name, digest, found)
        return found

    async def _instead(self, account: NordVpnAccount, digest: str, error: ProviderError) -> Credentials:
        if isinstance(error, StatusError) and error.status in (401, 403):
            self._refused[account.name] = (self._clock(), digest)
            self._kept.pop(account.name, None)
            await asyncio.to_thread(self._forget, account.name)
            self._check(account, digest)
        _, known, kept = self._kept.get(account.name, (0.0, "", Credentials()))
        if known == digest:
            return kept
        stored = await asyncio.to_thread(self._load, account.name, digest)
        if stored is None:
            raise ProviderError(f"account {account.name}: {error}") from None
        log.warning("credentials_kept", account=account.name, reason=str(error))
        return stored

    def _check(self, account: NordVpnAccount, digest: str) -> None:
        at, refused = self._refused.get(account.name, (0.0, ""))
        if refused and hmac.compare_digest(refused, digest) and self._clock() - at < REFUSED_S:
            raise ProviderError(
                f"account {account.name}: the provider refuses its token: put a valid one into {account.token_file}"
            )

    def _path(self, account: str) -> Path | None:
        return None if self._directory is None else self._directory / f"credentials-{account}.json"

    def _save(self, account: str, digest: str, found: Credentials) -> None:
        path = self._path(account)
        if path is None:
            return
        told = {"schema": 1, "token": digest, "username": found.username, "password": found.password}
        try:
            write_private(path, json.dumps(told | {"nordlynx_private_key": found.wireguard_key}).encode())
        except OSError as error:
            log.error("credentials_not_kept", path=str(path), reason=error.strerror)

    def _load(self, account: str, digest: str) -> Credentials | None:
        path = self._path(account)
        try:
            told = json.loads(read_private(path)) if path is not None else None
            if isinstance(told, dict) and hmac.compare_digest(str(told["token"]), digest):
                return _parse(told)
        except (ProviderError, ValueError, KeyError, TypeError, RecursionError):
            pass
        return None

    def _forget(self, account: str) -> None:
        path = self._path(account)
        if path is not None:
            path.unlink(missing_ok=True)


async def read_token(account: NordVpnAccount) -> str:
    """The access token of an account.

    Raises ProviderError: no file, an empty one, a placeholder, or one that everybody may read.
    """
    try:
        content = await asyncio.to_thread(read_private, account.token_file, MAX_TOKEN)
    except ProviderError as error:
        raise ProviderError(f"account {account.name}: token file {error}") from None
    token = content.decode(errors="replace").strip()
    if not token:
        raise ProviderError(f"account {account.name}: {account.token_file} is empty: put the access token there")
    if not _WORD.fullmatch(token) or _PLACEHOLDER.fullmatch(token):
        raise ProviderError(
            f"account {account.name}: {account.token_file} holds no access token but a placeholder or other text"
        )
    return token


def _parse(answer: object) -> Credentials:
    if not isinstance(answer, dict):
        raise ProviderError("the provider's answer is not understood")
    given = [answer.get(name) for name in ("username", "password", "nordlynx_private_key")]
    user, password, key = (text if isinstance(text, str) and _WORD.fullmatch(text) else "" for text in given)
    return Credentials(user, password, key if is_wireguard_key(key) else "")


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
