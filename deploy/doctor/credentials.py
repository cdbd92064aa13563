"""The NordVPN accounts: are their token files there, private and filled, are the servers' keys there, and (asked for
with --online) does the provider take the tokens?

What a file holds never leaves this module.
"""

import base64
import errno
import http.client
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from control.config import NordVpnSettings
from deploy.config import is_placeholder
from deploy.doctor.model import Finding, failed, ok, warning

# NordVPN's own; the account's page names it so.
WHERE = "https://my.nordaccount.com (NordVPN, Access token)"
ASK = "/v1/users/services/credentials"
_MOST = 64 * 1024
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_STATIC_KEY = b"-----BEGIN OpenVPN Static key V1-----"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was found. `fault`: why it cannot be read; `good`: whether it holds what it should."""

    path: Path
    fault: str = ""
    mode: int = 0o600
    good: bool = True


@dataclass(frozen=True, slots=True)
class Account:
    """`answer` is the provider's HTTP status, 0 where it was not asked, None where it did not answer."""

    name: str
    token: File
    answer: int | None = 0


@dataclass(frozen=True, slots=True)
class Seen:
    provider: str
    accounts: tuple[Account, ...] = ()
    ca: File | None = None
    tls_auth: File | None = None


def look(settings: NordVpnSettings, online: bool) -> Seen:
    accounts = []
    for account in settings.accounts:
        token, secret = _look_token(account.token_file)
        asked = online and token.good and not token.fault
        answer = ask(settings.api_url, secret, settings.timeout) if asked else 0
        accounts.append(Account(account.name, token, answer))
    ca = _look_file(settings.ca_file, lambda text: _CERTIFICATE in text) if settings.ca_file else None
    key = _look_file(settings.tls_auth_file, lambda text: _STATIC_KEY in text) if settings.tls_auth_file else None
    return Seen(urlsplit(settings.api_url).netloc, tuple(accounts), ca, key)


def judge(seen: Seen) -> Iterator[Finding]:
    if not seen.accounts:
        yield warning(
            "credentials",
            "no account is configured",
            "No VPN exit of the provider can be started; upstream and direct nodes can.",
            "[[nordvpn.accounts]] with name, token_file and slots, or [custom] with directory, in the --config file",
        )
        return
    for account in seen.accounts:
        yield _account(account, seen.provider)
    yield from _keys(seen)


def _account(account: Account, provider: str) -> Finding:
    name, token = f"account {account.name}", account.token
    meaning = "This account starts no exit."
    if token.fault:
        return failed(name, f"{token.path}: {token.fault}", meaning, f"put the access token there, from {WHERE}")
    if not token.good:
        return failed(
            name, f"{token.path} holds no access token", meaning, f"put the one there that you get from {WHERE}"
        )
    if account.answer in (401, 403):
        return failed(
            name, f"{provider} refuses its token", meaning, f"make a new one: {WHERE}; put it into {token.path}"
        )
    if token.mode & 0o077:
        return failed(
            name,
            f"{token.path} may be read by others (mode {token.mode:04o})",
            "Whoever has an account on this machine has this one, too.",
            f"chmod 600 {token.path}",
        )
    if account.answer not in (0, 200):
        what = f"answered {account.answer}" if account.answer else "did not answer"
        return warning(name, f"{provider} {what}", "Whether it takes the token is not known.", "try again later")
    return ok(name, f"{provider} takes its token" if account.answer else f"{token.path} holds a token")


def _keys(seen: Seen) -> Iterator[Finding]:
    meaning = "OpenVPN exits cannot check whom they speak to, and are not started."
    where = "it is the <ca> of the provider's .ovpn files"
    if seen.ca is None:
        yield failed("ca_file", "nordvpn.ca_file is not set", meaning, f"set it to a file with the authority; {where}")
    elif seen.ca.fault or not seen.ca.good:
        what = seen.ca.fault or "holds no certificate (PEM)"
        yield failed("ca_file", f"{seen.ca.path}: {what}", meaning, f"put the authority there; {where}")
    else:
        yield ok("ca_file", f"{seen.ca.path} holds a certificate")
    if seen.tls_auth is not None and (seen.tls_auth.fault or not seen.tls_auth.good):
        what = seen.tls_auth.fault or "holds no static key of OpenVPN's"
        yield failed(
            "tls_auth_file",
            f"{seen.tls_auth.path}: {what}",
            "OpenVPN servers do not answer exits without it.",
            "put the <tls-auth> of the provider's .ovpn files there",
        )


def ask(base: str, token: str, timeout: float) -> int | None:
    """The status with which the provider answers `token`; None where it does not answer."""
    basic = base64.b64encode(f"token:{token}".encode()).decode()
    request = urllib.request.Request(base + ASK, headers={"Authorization": f"Basic {basic}"})  # noqa: S310
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=timeout) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, ValueError, http.client.HTTPException):
        return None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Every redirect is an answer: it would carry the token elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


def _look_token(path: Path) -> tuple[File, str]:
    found: list[str] = []

    def good(text: bytes) -> bool:
        token = text.decode("ascii", errors="replace").strip()
        found.append(token)
        return token.isascii() and token.isprintable() and " " not in token and not is_placeholder(token)

    file = _look_file(path, good)
    return file, found[0] if found else ""


def _look_file(path: Path, good: Callable[[bytes], bool]) -> File:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST)
            mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        why = "it is not there" if error.errno == errno.ENOENT else error.strerror or str(error)
        return File(path, fault=why)
    return File(path, mode=mode, good=good(text))
