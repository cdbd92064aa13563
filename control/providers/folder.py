"""A folder of VPN files as the operator keeps it: which are there, what each is for, and which are refused and why.

    jp-tokyo-1.ovpn     OpenVPN; its country and city stand in its name (see `labels`)
    jp-tokyo-1.auth     user and password for that file alone, a line each
    auth.txt            user and password for the files of this folder that have none of their own
    us/new-york.conf    WireGuard or OpenVPN, told apart by what is in it; folders go one level deep

A file that cannot be used costs nobody else anything. Everything here blocks; call it off the event loop.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from control.providers import ProviderError, ovpn, wgconf
from control.providers.files import read_bounded, read_private
from control.providers.labels import Label, label
from control.providers.ovpn import OpenVpnFile
from control.providers.pem import login
from control.providers.remotes import Remote
from control.providers.wgconf import WireGuardFile

MAX_FILES = 5000
SUFFIXES = (".ovpn", ".conf")
LOGIN_FILE = "auth.txt"
PREFIX = "custom-"
_SECRET = re.compile(
    r"^\s*(PrivateKey\s*=|<key>|<auth-user-pass>|-----BEGIN [A-Z ]*PRIVATE KEY)", re.MULTILINE | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that can be used. `account` is whose sessions it takes: that of its login, else its own, which has one."""

    name: str
    label: Label
    account: str
    shared: bool
    content: OpenVpnFile | WireGuardFile = field(repr=False)
    login: tuple[str, str] | None = field(default=None, repr=False)

    @property
    def remotes(self) -> tuple[Remote, ...]:
        return self.content.remotes if isinstance(self.content, OpenVpnFile) else (self.content.remote,)


@dataclass(frozen=True, slots=True)
class Folder:
    """`refused`: file by file, in plain words. `signature` changes with any of the files."""

    entries: tuple[Entry, ...] = ()
    refused: tuple[str, ...] = ()
    signature: str = ""


def scan(top: Path, known: Folder | None = None) -> Folder:
    """What is in the folder `top`; `known` itself where nothing changed since. Raises ProviderError: no such folder."""
    try:
        present = list(_files(top))
    except OSError as error:
        raise ProviderError(f"custom.directory {top}: {error.strerror}") from None
    signature = _signature(present)
    if known is not None and known.signature == signature:
        return known
    entries, refused = [], []
    chosen = sorted(path for path in present if path.suffix.lower() in SUFFIXES)
    for path in chosen[:MAX_FILES]:
        try:
            entries.append(_entry(top, path))
        except ProviderError as error:
            refused.append(str(error))
    if len(chosen) > MAX_FILES:
        refused.append(f"{len(chosen) - MAX_FILES} files more than {MAX_FILES} are left out")
    return Folder(tuple(entries), tuple(refused), signature)


def _entry(top: Path, path: Path) -> Entry:
    name = str(path.relative_to(top))
    try:
        said = label(path.name, "" if path.parent == top else path.parent.name)
    except ValueError as error:
        raise ProviderError(f"{name}: {error}") from None
    text = _text(path, name)
    if _holds_secret(text):
        read_private(path)
    if path.suffix.lower() == ".conf" and wgconf.is_wireguard(text):
        return Entry(name, said, account_name(name), False, wgconf.parse(name, text))
    found = _complete(path, name, ovpn.parse(name, text))
    if not found.needs_login:
        return Entry(name, said, account_name(name), False, found)
    source, credentials = _login(top, path, name, found)
    return Entry(name, said, account_name(source), True, found, credentials)


def _complete(path: Path, name: str, found: OpenVpnFile) -> OpenVpnFile:
    if "key" in found.files:
        read_private(path.with_name(found.files["key"]))
    contents = {word: _text(path.with_name(other), other) for word, other in found.files.items()}
    try:
        return ovpn.with_files(found, contents)
    except ValueError as error:
        raise ProviderError(f"{name}: {', '.join(found.files.values())}: {error}") from None


def _login(top: Path, path: Path, name: str, found: OpenVpnFile) -> tuple[str, tuple[str, str]]:
    if found.login is not None:
        return name, found.login
    own, named = path.with_suffix(".auth"), path.with_name(found.login_file or LOGIN_FILE)
    source = next((one for one in (own, named, path.with_name(LOGIN_FILE), top / LOGIN_FILE) if one.exists()), None)
    if source is None:
        raise ProviderError(
            f"{name} asks for a user and password: put them into {own.name} or {LOGIN_FILE}, a line each"
        )
    where = str(source.relative_to(top))
    read_private(source)
    try:
        return where, login(_text(source, where))
    except ValueError as error:
        raise ProviderError(f"{where}: {error}") from None


def _text(path: Path, name: str) -> str:
    try:
        return read_bounded(path).decode()
    except UnicodeDecodeError:
        raise ProviderError(f"{name} is not a text file (UTF-8)") from None


def _holds_secret(text: str) -> bool:
    return _SECRET.search(text) is not None


def account_name(source: str) -> str:
    """The account that a login's file, or a file without login, stands for."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "-", source)
    if plain != source or len(plain) > 40:
        plain = f"{plain[:40]}-{hashlib.sha256(source.encode(errors='surrogateescape')).hexdigest()[:6]}"
    return PREFIX + plain


def _files(top: Path) -> Iterator[Path]:
    for path in top.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (inner for inner in path.iterdir() if not inner.name.startswith(".") and inner.is_file())
        elif path.is_file():
            yield path


def _signature(paths: list[Path]) -> str:
    seen = hashlib.sha256()
    for path in sorted(paths):
        try:
            found = path.stat()
        except OSError:
            continue
        facts = (str(path), found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode)
        seen.update(repr(facts).encode(errors="surrogateescape"))
    return seen.hexdigest()
